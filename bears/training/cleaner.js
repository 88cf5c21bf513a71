// The cleaner's screen: rows of photos, each with its label and a guess, which is chosen but not yet a decision. The
// keyboard does all of it, the mouse, too. cleaning.py says how the two talk, and decides what is shown.

const KEEP = "<Keep>";
const DELETE = "<Delete>";
const DIGITS = 9; // with more labels than that, digits are for those that are likely for the photo

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

export function render({ model, el }) {
  const grid = make("div", { role: "grid", "aria-label": "Photos, the most suspicious first", class: "grid" });
  const keys = make("p", { class: "keys" });
  const status = make("p", { class: "status", role: "status" });
  const where = make("span", { class: "where" });
  const previous = make("button", { onclick: () => turn(-1) }, "Previous");
  const next = make("button", { onclick: () => turn(1) }, "Next");
  const undo = make("button", { onclick: () => send({ event: "undo" }) }, "Take back");
  const reason = make("input", { placeholder: "why (goes into the file)", "aria-label": "Reason", type: "text" });
  reason.addEventListener("keydown", (event) => ["Enter", "Escape"].includes(event.key) && select(current));
  const root = make("div", { class: "bears-cleaner" });
  root.addEventListener("keydown", (event) => {
    // or with a slip of the finger the cell is cut: x is JupyterLab's key for that
    if (!event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation();
  });
  root.append(make("div", { class: "bar" }, previous, where, next, undo, reason), keys, grid, status);
  el.append(root);

  let cards = new Map(); // by the photo's SHA-256: what is known of it, its row, and its nodes
  let current = null; // the photo that keys are for
  let waiting = new Set(); // photos whose decision has been sent and not yet been written
  let unanswered = 0; // messages
  let turning = false; // to another screen, where the keys go on
  const marks = () => model.get("marks");
  const send = (message) => {
    unanswered += 1;
    model.send(message);
  };
  const digits = (card) => (model.get("vocab").length > DIGITS ? card.likely : model.get("vocab"));
  const isOpen = (photo) => !(photo in marks()) && !waiting.has(photo);

  // Whoever has gone elsewhere meanwhile, to write a reason, is not fetched back: their letters would be keys
  function mayFocus() {
    return document.activeElement === document.body || root.contains(document.activeElement.closest("button, .photo"));
  }

  function turn(by) {
    const to = model.get("screen") + by;
    if (to < 0 || to >= model.get("screens")) return;
    turning = true;
    send({ event: "screen", screen: to });
  }

  function draw() {
    const focused = grid.contains(document.activeElement) || (turning && mayFocus());
    turning = false;
    cards = new Map();
    waiting = new Set();
    grid.replaceChildren(...model.get("rows").map(drawRow));
    for (const photo of cards.keys()) mark(photo);
    where.textContent = `${model.get("screen") + 1} of ${model.get("screens")}`;
    previous.disabled = model.get("screen") === 0;
    next.disabled = model.get("screen") + 1 >= model.get("screens");
    select([...cards.keys()].find(isOpen) ?? cards.keys().next().value, focused);
  }

  function drawRow(photos, row) {
    const line = make("div", { role: "row", class: "row" }, ...photos.map((card) => drawCard(card, row)));
    const whole = photos.map((card) => card.sha256);
    line.append(
      make(
        "div",
        { role: "gridcell", class: "whole" },
        make("button", { "aria-label": `Take guesses, row ${row + 1}`, onclick: () => decide(whole.filter(isOpen), null) }, "Take guesses"),
        make("button", { "aria-label": `Keep all, row ${row + 1}`, onclick: () => decide(whole.filter(isOpen), KEEP) }, "Keep all"),
      ),
    );
    return line;
  }

  function drawCard(card, row) {
    const guess = card.guess === KEEP ? card.label : card.guess;
    const others = model.get("vocab").filter((label) => label !== card.label);
    const choice = make("select", { tabindex: -1, "aria-label": `What ${card.name} is` });
    choice.append(
      ...[KEEP, DELETE, ...others].map((value) =>
        make("option", { value }, { [KEEP]: "Keep", [DELETE]: "Delete" }[value] ?? value),
      ),
    );
    choice.addEventListener("change", () => decide([card.sha256], choice.value));
    const take = make("button", { tabindex: -1, title: "Decide so", onclick: () => decide([card.sha256], choice.value) }, "✓");
    const sure = card.sure === null ? "" : `${guess}? ${Math.round(100 * card.sure)} %`;
    const node = make(
      "div",
      { role: "gridcell", class: "photo", tabindex: -1, onfocus: () => select(card.sha256, false) },
      card.picture ? make("img", { src: card.picture, alt: "", title: card.name }) : make("span", {}, card.name),
      make("div", { class: "label" }, card.label),
      make("div", { class: card.guess === KEEP ? "guess" : "guess other" }, sure),
      make("div", { class: "choice" }, choice, take),
    );
    node.addEventListener("click", (event) => event.target.closest("select, button") || node.focus());
    cards.set(card.sha256, { card, row, node, choice, take });
    return node;
  }

  // How a photo looks with what is decided of it, if anything is
  function mark(photo) {
    const { card, node, choice, take } = cards.get(photo);
    const to = marks()[photo];
    const state = to === undefined ? "open" : to === DELETE ? "deleted" : to === KEEP ? "kept" : "moved";
    node.dataset.state = waiting.has(photo) ? "waiting" : state;
    if (!waiting.has(photo)) choice.value = to ?? card.guess;
    take.hidden = to !== undefined;
    const said = { open: "not decided", deleted: "deleted", kept: "kept", moved: `now ${to}` }[state];
    const guess = card.guess === KEEP ? "" : `, perhaps ${card.guess}`;
    node.setAttribute("aria-label", `${card.name}: ${card.label}${guess}; ${said}`);
  }

  function select(photo, focus = true) {
    if (!cards.has(photo)) return;
    current = photo;
    for (const [other, { node }] of cards) node.tabIndex = other === photo ? 0 : -1;
    const { card, node } = cards.get(photo);
    const labels = digits(card).map((label, number) => [`${number + 1}`, label]);
    const all = [["Space", "all labels"], ["U", "take back"]];
    const legend = [["Enter", "as guessed"], ["K", "keep"], ["D", "delete"], ...labels, ...all];
    const parts = legend.flatMap(([key, what]) => [make("kbd", {}, key), ` ${what}  `]);
    const arrows = [make("kbd", {}, "← → ↑ ↓"), " ", make("kbd", {}, "Page Down"), " move"];
    keys.replaceChildren(...parts, make("kbd", {}, "Shift"), " with any of these: the whole row  ", ...arrows);
    if (focus) node.focus();
  }

  function decide(photos, to) {
    if (!photos.length) return;
    for (const photo of photos) waiting.add(photo);
    for (const photo of photos) mark(photo);
    send({ event: "mark", photos, to, reason: reason.value });
    const all = [...cards.keys()];
    const behind = all.slice(all.indexOf(photos.at(-1)) + 1);
    const from = grid.contains(document.activeElement);
    select([...behind, ...all].find(isOpen) ?? photos.at(-1), from);
  }

  // Rows need not be of one length: from one to another, the photo in the same place or the last one
  function move(down, right) {
    const all = [...cards.keys()];
    if (right) return select(all[all.indexOf(current) + right]);
    const { row } = cards.get(current);
    const inRow = (number) => all.filter((photo) => cards.get(photo).row === number);
    const there = inRow(row + down);
    if (there.length) select(there[Math.min(inRow(row).indexOf(current), there.length - 1)]);
    else turn(down);
  }

  const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

  grid.addEventListener("keydown", (event) => {
    const here = cards.get(current);
    if (event.key === "Escape" && event.target.matches("select, button")) return select(current);
    if (!event.target.matches(".photo") || event.altKey) return; // in a list or on a button keys mean what they do there
    const goes = event.key in MOVES || event.key.startsWith("Page");
    if (event.repeat && !goes) return event.preventDefault(); // a key that is held would decide on one after the other
    if (event.ctrlKey || event.metaKey) {
      if (event.key.toLowerCase() !== "z") return;
      send({ event: "undo" });
    } else if (event.key in MOVES) move(...MOVES[event.key]);
    else if (event.key === "PageDown" || event.key === "PageUp") turn(event.key === "PageDown" ? 1 : -1);
    else if (event.key.toLowerCase() === "u") send({ event: "undo" });
    else if (event.key === " ") {
      here.choice.focus();
      here.choice.showPicker?.();
    } else if (event.key === "Enter" && ![...cards.keys()].some(isOpen)) turn(1);
    else {
      const digit = /^(?:Digit|Numpad)([1-9])$/.exec(event.code)?.[1]; // with Shift, event.key is another sign
      const named = { Enter: null, k: KEEP, d: DELETE, Delete: DELETE, Backspace: DELETE };
      const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
      const to = digit ? digits(here.card)[digit - 1] : named[key];
      if (to === undefined) return;
      if (to === null && !event.shiftKey && !isOpen(current)) return event.preventDefault(); // it is decided
      const row = [...cards.keys()].filter((photo) => cards.get(photo).row === here.row && isOpen(photo));
      decide(event.shiftKey ? row : [current], to);
    }
    event.preventDefault();
  });

  const changed = () => {
    waiting = new Set([...waiting].filter((photo) => !(photo in marks())));
    for (const photo of cards.keys()) mark(photo);
  };
  const told = (message) => {
    if (message.event === "at") select(message.photo, mayFocus());
    if (message.event !== "done") return;
    unanswered = Math.max(0, unanswered - 1);
    if (unanswered === 0) waiting = new Set();
    changed();
  };
  const say = () => (status.textContent = model.get("status"));
  model.on("change:rows", draw);
  model.on("change:marks", changed);
  model.on("change:status", say);
  model.on("msg:custom", told);
  draw();
  say();
  return () => {
    model.off("change:rows", draw);
    model.off("change:marks", changed);
    model.off("change:status", say);
    model.off("msg:custom", told);
  };
}

export default { render };
