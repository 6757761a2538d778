// Adds a panel with the tokens of a message to the chat page.

export default function (page) {
  let text = "";
  let show = () => {}; // while the panel is open: writes the tokens of `text`

  page.addMessageAction({
    id: "tokens",
    title: "Tokens",
    run(message) {
      text = message.content;
      page.openPanel("tokens");
      show();
    },
  });

  page.addPanel({
    id: "tokens",
    title: "Tokens",
    render(element) {
      const summary = document.createElement("p");
      const list = document.createElement("ol");
      list.style.paddingLeft = "2.5rem";
      element.append(summary, list);

      show = async () => {
        summary.textContent = "Choose “Tokens” below a message.";
        list.replaceChildren();
        if (!text) return;
        const body = JSON.stringify({ content: text, with_pieces: true });
        const { tokens } = await (await page.request("tokenize", { method: "POST", body })).json();
        summary.textContent = `Number of tokens: ${tokens.length}`;
        list.replaceChildren(...tokens.map(toItem));
      };
      show();
      return () => {
        show = () => {};
      };
    },
  });
}

// A piece is a text, or the bytes of an incomplete character.
function toItem({ id, piece }) {
  const item = document.createElement("li");
  const code = document.createElement("code");
  code.textContent = typeof piece === "string" ? piece.replace(/ /g, "␣").replace(/\n/g, "↵") : `bytes ${piece.join(" ")}`;
  item.append(code, ` ${id}`);
  return item;
}
