"""Attached files: texts, PDF files and images, how they get to the page, and why some are refused."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.chat_page import ChatPage
from support.pdf import pdf, pdf_in_font, pdf_with_cmap
from support.scripted_engine import Script

# A picture of one pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

# Drops or pastes files with these names and contents.
GIVE = """([type, target, files, text]) => {
  const data = new DataTransfer();
  for (const [name, content, mime] of files) data.items.add(new File([content], name, {type: mime}));
  if (text) data.setData("text/plain", text);
  const init = {bubbles: true, cancelable: true};
  const event = type === "paste"
    ? new ClipboardEvent(type, {...init, clipboardData: data}) : new DragEvent(type, {...init, dataTransfer: data});
  document.querySelector(target).dispatchEvent(event);
}"""


def attach(chat: ChatPage, *paths: Path) -> None:
    """Attach files with the button."""
    with chat.page.expect_file_chooser() as chooser:
        chat.button("Attach files").click()
    chooser.value.set_files(paths)


def written(folder: Path, name: str, content: bytes) -> Path:
    """Return the path of a new file."""
    (folder / name).write_bytes(content)
    return folder / name


def attached(chat: ChatPage) -> Any:
    """Return the files that are attached to the next message."""
    return chat.page.locator(".attachments li")


def test_text_files_are_attached(chat: ChatPage, script: Script, tmp_path: Path) -> None:
    attach(
        chat,
        written(tmp_path, "notes.txt", b"apples and pears"),
        written(tmp_path, "data.bin", b"\x00\xff"),
        written(tmp_path, "large.txt", b"x" * (1 << 21)),
    )
    chat.page.get_by_text("large.txt is too large: at most 1 MB.").wait_for()
    assert attached(chat).count() == 1
    chat.send("What is in the file?")
    assert "File notes.txt:\n```\napples and pears\n```\n\nWhat is in the file?" in script.prompts[-1]
    chat.questions.last.get_by_text("notes.txt").click()
    assert chat.questions.last.get_by_text("apples and pears").is_visible()


def test_text_of_pdf_files_is_attached(chat: ChatPage, script: Script, tmp_path: Path) -> None:
    requested: list[str] = []
    chat.page.on("request", lambda request: requested.append(request.url))
    attach(chat, written(tmp_path, "report.pdf", pdf("First (page)\nwith two lines", "Second page")))
    attached(chat).get_by_text("report.pdf").wait_for()
    chat.button("Remove report.pdf").wait_for()
    chat.send("Sum up")
    assert "[Page 1]\nFirst (page)\nwith two lines\n\n[Page 2]\nSecond page\n```\n\nSum up" in script.prompts[-1]
    chat.questions.last.get_by_text("report.pdf (2 pages)").wait_for()
    assert any("pdf.worker" in url for url in requested)  # it reads in a worker, and only now
    assert all(url.startswith(chat.url) for url in requested)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pdf("Secret", has_password=True), "report.pdf has a password."),
        (pdf(""), "report.pdf has no text."),
        (b"%PDF-1.4\nnothing else", "report.pdf is damaged"),
        (pdf(*["\n".join(["x" * 70] * 45)] * 350), "The text of report.pdf is too long: at most 1 MB."),
    ],
    ids=["password", "scanned", "damaged", "long"],
)
def test_pdf_files_without_a_readable_text_are_refused(
    chat: ChatPage, tmp_path: Path, content: bytes, reason: str
) -> None:
    attach(chat, written(tmp_path, "report.pdf", content))
    chat.page.get_by_text(reason).wait_for()
    assert attached(chat).count() == 0


@pytest.mark.parametrize(
    ("cmap", "ordering", "codec", "text"),
    [
        ("90ms-RKSJ-H", "Japan1", "cp932", "日本語の文書"),
        ("EUC-H", "Japan1", "euc_jp", "日本語の文書"),
        ("UniJIS-UTF16-H", "Japan1", "utf-16-be", "日本語の文書"),
        ("GBK-EUC-H", "GB1", "gbk", "中文文件"),
        ("ETen-B5-H", "CNS1", "big5", "繁體中文"),
        ("KSCms-UHC-H", "Korea1", "cp949", "한국어 문서"),
    ],
)
def test_text_of_pdf_files_with_predefined_cmaps_is_attached(
    chat: ChatPage, script: Script, tmp_path: Path, cmap: str, ordering: str, codec: str, text: str
) -> None:
    requested: list[str] = []
    chat.page.on("request", lambda request: requested.append(request.url))
    attach(chat, written(tmp_path, "report.pdf", pdf_with_cmap(text.encode(codec), cmap, ordering)))
    chat.button("Remove report.pdf").wait_for()
    chat.send("Sum up")
    assert f"```\n{text}\n```\n\nSum up" in script.prompts[-1]
    assert any(url.endswith(f"/webui/cmaps/{cmap}.bcmap") for url in requested)
    assert sum(url.endswith(".bcmap") for url in requested) < 5  # only those that the file needs


@pytest.mark.parametrize(
    ("font", "codes", "text"),
    [("Symbol", b"abp", "αβπ"), ("Times-Roman", b"plain", "plain")],
)
def test_text_in_standard_fonts_is_attached_without_the_fonts(
    chat: ChatPage, script: Script, tmp_path: Path, font: str, codes: bytes, text: str
) -> None:
    """The page does not have the fonts; the expected characters are those of ISO 32000-1, appendix D."""
    fonts = f"<< /Type /Font /Subtype /Type1 /BaseFont /{font} >>"
    attach(chat, written(tmp_path, "report.pdf", pdf_in_font(fonts, codes)))
    chat.button("Remove report.pdf").wait_for()
    chat.send("Sum up")
    assert f"```\n{text}\n```\n\nSum up" in script.prompts[-1]


def test_images_are_refused_in_words(chat: ChatPage, tmp_path: Path) -> None:
    attach(chat, written(tmp_path, "picture.png", PNG))
    refusal = chat.page.get_by_text("picture.png is an image, and the model reads only text.")
    refusal.click()  # hides it
    refusal.wait_for(state="detached")
    assert attached(chat).count() == 0


def test_images_are_sent_if_the_model_reads_them(open_page: Callable[..., ChatPage], tmp_path: Path) -> None:
    chat = open_page()

    def with_vision(route: Any) -> None:
        route.fulfill(json={**route.fetch().json(), "modalities": {"vision": True, "audio": False}})

    chat.page.route("**/props", with_vision)
    with chat.page.expect_response("**/props"):
        chat.page.reload()
    attach(chat, written(tmp_path, "picture.png", PNG), written(tmp_path, "scan.bmp", b"BM"))
    chat.page.get_by_text("scan.bmp is an image of a kind that cannot be sent.").wait_for()
    chat.button("Remove picture.png").wait_for()
    chat.expected.append("status of 400")  # the model of the test reads no images
    with chat.page.expect_request("**/v1/chat/completions") as sent:
        chat.send("What is this?")
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}"}}
    content = sent.value.post_data_json["messages"][-1]["content"]
    assert content == [image, {"type": "text", "text": "What is this?"}]
    width = chat.questions.last.get_by_role("img", name="picture.png").evaluate("image => image.naturalWidth")
    assert width == 1


@pytest.mark.parametrize(("event", "target"), [("drop", "main"), ("paste", "#message")])
def test_files_are_dropped_and_pasted(chat: ChatPage, script: Script, event: str, target: str) -> None:
    chat.page.evaluate(GIVE, [event, target, [["a.txt", "apples", "text/plain"], ["b.md", "pears", ""]], ""])
    attached(chat).nth(1).wait_for()
    chat.button("Remove a.txt").click()
    chat.send("And?")
    assert "File b.md:\n```\npears\n```\n\nAnd?" in script.prompts[-1]
    assert "apples" not in script.prompts[-1]


def test_pasted_text_is_not_replaced_by_its_picture(chat: ChatPage) -> None:
    """Spreadsheets copy cells as a text and as a picture."""
    chat.page.evaluate(GIVE, ["paste", "#message", [["image.png", "x", "image/png"]], "1\t2"])
    chat.message.fill("next")
    assert chat.page.locator(".notification").inner_text() == ""
    assert attached(chat).count() == 0


def test_exported_markdown_keeps_files_and_images(
    chat: ChatPage, open_page: Callable[..., ChatPage], script: Script, tmp_path: Path
) -> None:
    attach(chat, written(tmp_path, "notes.txt", b"apples\n"))
    chat.button("Remove notes.txt").wait_for()
    chat.send("Look")
    with chat.page.expect_download() as download:
        chat.act("Look", "Export as Markdown")
    path = tmp_path / "talk.md"
    download.value.save_as(path)
    picture = f"<!-- llamafw:image dot.png -->\n![](data:image/png;base64,{base64.b64encode(PNG).decode()})"
    parts = path.read_text("utf-8").split("\n\n<!-- llamafw:assistant")
    path.write_text(f"{parts[0]}\n\n{picture}\n\n<!-- llamafw:assistant{parts[1]}", "utf-8")

    other = open_page()
    other.button("Settings").click()
    with other.page.expect_file_chooser() as chooser:
        other.button("Import JSON or Markdown").click()
    chooser.value.set_files(path)
    other.page.get_by_text("Imported conversations: 1").wait_for()
    other.button("Close").click()
    other.conversation("Look").click()
    other.questions.last.get_by_role("img", name="dot.png").wait_for()
    assert other.questions.last.get_by_text("notes.txt").is_visible()
