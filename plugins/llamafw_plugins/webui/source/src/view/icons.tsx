// The icons of buttons: lines in a square of 24 units.

const PATHS = {
  menu: "M4 6h16M4 12h16M4 18h16",
  plus: "M12 5v14M5 12h14",
  close: "M6 6l12 12M18 6L6 18",
  more: "M5 11v2M4 12h2M12 11v2M11 12h2M19 11v2M18 12h2",
  sliders: "M4 7h10M18 7h2M4 17h2M10 17h10M16 5v4M8 15v4",
  gear: "M12 9a3 3 0 100 6 3 3 0 000-6zM12 2v3M12 19v3M4.9 4.9l2.1 2.1M17 17l2.1 2.1M2 12h3M19 12h3M4.9 19.1L7 17M17 7l2.1-2.1",
  pin: "M9 4h6l-1 6 3 3H7l3-3zM12 13v7",
  send: "M12 20V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  attach: "M20 11l-8.5 8.5a5 5 0 01-7-7L13 4a3.5 3.5 0 015 5l-8.5 8.5a2 2 0 01-3-3L14 7",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  edit: "M4 20l1-5L16 4l4 4L9 19zM14 6l4 4",
  again: "M20 11a8 8 0 10-2 6M20 4v7h-7",
  play: "M8 5l11 7-11 7z",
  left: "M15 6l-6 6 6 6",
  right: "M9 6l6 6-6 6",
  up: "M6 15l6-6 6 6",
  down: "M6 9l6 6 6-6",
  reset: "M4 13a8 8 0 102-6M4 4v7h7",
  check: "M5 12l5 5 9-10",
  tokens: "M4 8h6v8H4zM14 8h6v8h-6z",
  wrap: "M4 6h16M4 12h13a3 3 0 010 6h-4M15 15l-3 3 3 3M4 18h4",
  file: "M6 3h8l4 4v14H6zM14 3v4h4",
  json: "M9 4c-4 0 0 8-4 8 4 0 0 8 4 8M15 4c4 0 0 8 4 8-4 0 0 8-4 8",
};

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}
