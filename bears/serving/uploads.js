// Photos that are chosen, dropped or pasted, made smaller and sent to the kernel; uploads.py says how the two talk.
//
// It needs no place on the page: the button that opens the chooser is ipywidgets' own FileUpload, which works without
// this script, too, and then sends files as they are.

// A photo as it is to be sent. Small ones, what this browser cannot read (HEIC, mostly, and what is damaged, of which the
// kernel says what is missing), and what it would show in another way than the kernel go as they are.
export async function smaller(file, side) {
  try {
    if (file.size < 300_000 || (await asItIs(file))) return file;
    const picture = await createImageBitmap(file); // upright, after its EXIF data, and in sRGB
    const scale = side / Math.min(picture.width, picture.height);
    if (scale >= 1) return file;
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(picture.width * scale);
    canvas.height = Math.round(picture.height * scale);
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    picture.close();
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    if (!data.some((value, index) => index % 4 === 3 && value)) return file; // all of it is transparent
    context.globalCompositeOperation = "destination-over";
    context.fillStyle = "white"; // what is transparent turns white, as in the kernel
    context.fillRect(0, 0, canvas.width, canvas.height);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
    return blob && blob.size < file.size ? blob : file;
  } catch {
    return file; // the kernel will say what is wrong with it
  }
}

// Animations, of which the kernel says that they move, and grey of more than 8 bits, of which browsers show the highest 8.
// By the structure of each format, not by words in it.
async function asItIs(file) {
  const bytes = new DataView(await file.slice(0, 65_536).arrayBuffer());
  const text = (at, length = 4) => String.fromCharCode(...new Uint8Array(bytes.buffer.slice(at, at + length)));
  if (text(0, 4) === "GIF8") return true;
  if (text(4) === "ftyp") {
    // ISO 14496-12: a brand, a version, and more brands, to the end of the box
    const end = Math.min(bytes.getUint32(0), bytes.byteLength - 3);
    for (let at = 8; at < end; at += at === 8 ? 8 : 4) if (text(at) === "avis") return true;
  }
  if (text(0, 8) === "\x89PNG\r\n\x1a\n") {
    if (bytes.getUint8(24) === 16 && [0, 4].includes(bytes.getUint8(25))) return true;
    for (let at = 8; at + 8 <= bytes.byteLength && text(at + 4) !== "IDAT"; at += 12 + bytes.getUint32(at))
      if (text(at + 4) === "acTL") return true;
  }
  if (text(0) === "RIFF" && text(8) === "WEBP" && text(12) === "VP8X") {
    return Boolean(bytes.getUint8(20) & 0x02); // its flag for moving
  }
  return false;
}

const PIECE = 64 * 1024; // bytes, the first; later ones are as large as arrives in about half a second
const PIECES = [16 * 1024, 1024 * 1024]; // the smallest and the largest
const AHEAD = 2; // pieces that are on their way at once: with more, everything else on this page would wait behind them
const LOST = 10_000; // ms without an answer, after which what was sent counts as lost, and is sent again
const SLOW = 5_000; // ms to read a file, after which it no longer holds up the others

// Sends lots of files to the kernel. Each file arrives, fails, or is on its way, and none stops another.
export class Sender {
  #model;
  #options;
  #lot; // the name of the last one, which takes the place of all before
  #turn = Promise.resolve(); // what is said to the kernel, one thing after the other
  #answers = [];
  #wake = () => {};

  constructor(model, options = {}) {
    this.#model = model;
    this.#options = { smaller, lost: LOST, slow: SLOW, ...options };
    model.on("msg:custom", this.#hear);
  }

  #hear = (answer) => {
    if (answer?.event !== "got" || answer.lot !== this.#lot) return;
    this.#answers.push(answer);
    this.#wake();
  };

  // Sends nothing more
  close() {
    this.#model.off("msg:custom", this.#hear);
    this.#lot = undefined;
    this.#wake();
  }

  note(note) {
    this.#model.send({ event: "note", note });
  }

  // `count`: how many there were, if these are not all. Done when each file but the slow ones has arrived or failed.
  async send(files, count = files.length) {
    const lot = (this.#lot = `${Date.now()} ${Math.random()}`);
    this.#answers = [];
    this.#wake(); // whoever still waits for an answer to what was before
    files = [...files].slice(0, this.#model.get("most"));
    const about = files.map(({ name, size }) => ({ name: name ?? "", size }));
    let said = this.#then(() => this.#tell({ event: "lot", lot, count, files: about }));
    for (const [file, photo] of files.entries()) {
      if (photo.size === 0 || photo.size > this.#model.get("largest")) continue; // the kernel says so by itself
      const read = this.#read(photo);
      const deliver = (content) => this.#then(() => this.#deliver(lot, file, content));
      const content = await inTime(read, this.#options.slow);
      if (lot !== this.#lot) return;
      if (content !== undefined) said = deliver(content);
      else {
        said = this.#then(() => this.#tell({ event: "slow", lot, file }));
        read.then(deliver);
      }
      await said;
    }
    await said;
  }

  // What is to be sent of a photo; null, if the browser cannot read it: a folder, or gone, or changed, or in a cloud.
  async #read(photo) {
    try {
      const content = await (await this.#options.smaller(photo, this.#model.get("side"))).arrayBuffer();
      return content.byteLength ? content : null;
    } catch {
      return null;
    }
  }

  // A word that fails has no consequence for the next. Why it failed is for the notice that the connection is lost.
  #then(say) {
    return (this.#turn = this.#turn.then(say).catch(console.error));
  }

  async #deliver(lot, file, content) {
    if (!content) return this.#tell({ event: "failed", lot, file });
    const of = content.byteLength;
    let [got, sent, piece] = [0, 0, PIECE];
    while (got < of && lot === this.#lot) {
      while (sent < of && sent - got < AHEAD * piece) {
        const bytes = content.slice(sent, sent + piece);
        this.#model.send({ event: "piece", lot, file, start: sent, of }, undefined, [bytes]);
        sent += bytes.byteLength;
      }
      const asked = performance.now();
      const answer = await this.#answer(lot);
      const took = performance.now() - asked;
      if (answer && answer.file !== file) continue;
      if (answer) got = Math.max(got, answer.bytes);
      if (!answer || answer.gap) sent = got;
      const fitting = took < 250 ? 2 * piece : took > 1000 ? piece / 2 : piece;
      piece = Math.min(Math.max(fitting, PIECES[0]), PIECES[1]);
    }
  }

  // Something small, until it is answered. Other answers, late ones, are of no interest.
  async #tell(message) {
    while (message.lot === this.#lot) {
      this.#model.send(message);
      for (let answer; (answer = await this.#answer(message.lot)); ) if (answer.file === message.file) return;
    }
  }

  // The next one; nothing, if it takes too long, or another lot has taken the place of this one
  async #answer(lot) {
    const wait = () => inTime(new Promise((wake) => (this.#wake = wake)), this.#options.lost);
    if (lot === this.#lot && !this.#answers.length) await wait();
    return lot === this.#lot ? this.#answers.shift() : undefined;
  }
}

// What the promise gives, or nothing if that takes too long
function inTime(promise, ms) {
  let timer;
  const late = new Promise((go) => (timer = setTimeout(go, ms)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

const ODDS = /^(\.|thumbs\.db$|desktop\.ini$)|\.(aae|xmp|thm|lrv)$/i; // what systems and cameras put beside photos

// The entries of what was dropped that are files or folders. It has to be called before anything is awaited.
export const entriesOf = (transfer) => [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);

// The photos among files and folders, those in folders inside, too: the first ones, and how many there are. Of very many
// files not all are looked at.
export async function photosIn(entries, most, uncounted) {
  const files = [];
  let [count, looked] = [0, 0];
  for await (const file of walk(entries)) {
    looked += 1;
    if (file && count++ < most) files.push(file);
    if (count > uncounted || looked > 10 * uncounted) return { files, count: uncounted + 1 };
  }
  return { files, count };
}

// Each file, or null for what is no photo
async function* walk(entries, inFolder = false) {
  for (const entry of entries.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }))) {
    if (inFolder && ODDS.test(entry.name)) yield null;
    else if (entry.isDirectory) {
      const { entries, whole } = await inside(entry);
      yield* walk(entries, true);
      if (!whole) yield unreadable(`${entry.name}/`);
    } else {
      const file = await new Promise((go, fail) => entry.file(go, fail)).catch(() => unreadable(entry.name));
      yield !inFolder || !file.type || file.type.startsWith("image/") ? file : null;
    }
  }
}

async function inside(folder) {
  const entries = [];
  const reader = folder.createReader();
  try {
    for (;;) {
      const some = await new Promise((go, fail) => reader.readEntries(go, fail));
      if (!some.length) return { entries, whole: true };
      entries.push(...some); // a hundred at a time
    }
  } catch {
    return { entries, whole: false };
  }
}

const unreadable = (name) => ({ name, size: 1, type: "", arrayBuffer: () => Promise.reject(new Error(name)) });

export default {
  render({ model, el }) {
    const listening = new AbortController();
    const listen = (target, type, handler, options = {}) =>
      target.addEventListener(type, handler, { signal: listening.signal, ...options });

    const sender = new Sender(model);
    const closed = () => Boolean(document.querySelector(".choose")?.disabled); // there is no classifier
    let newest = 0; // of what was handed over: a large folder may be looked through when the next photo is there already
    const send = (files, count) => {
      if (!files.length || closed()) return;
      newest += 1;
      sender.send(files, count);
    };

    // Chosen, with the button of the FileUpload, before it opens a chooser itself; on a phone, with the camera, too
    const touch = matchMedia("(pointer: coarse)").matches;
    const picker = (options) => {
      const input = Object.assign(document.createElement("input"), { type: "file", ...options });
      listen(input, "change", () => {
        send([...input.files]);
        input.value = ""; // so that the same file can be chosen again
      });
      return input;
    };
    // a phone makes a JPEG of a HEIC photo, and offers its gallery, for nothing but image/*
    const chooser = picker({ accept: touch ? "image/*" : model.get("accept"), multiple: true });
    const camera = picker({ accept: "image/*" });
    camera.setAttribute("capture", "environment");
    const choose = (event) => {
      const button = event.target.closest?.(".choose");
      if (!button || button.disabled) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      chooser.click();
    };
    listen(document, "click", choose, { capture: true });

    // Dropped, from elsewhere. Of a picture in another page most browsers hand over only the address. Where this page is
    // shown twice, as JupyterLab can, one of the two takes it.
    document.body.dataset.dropping = "Drop photos here";
    let ours = false; // what is dragged is a part of this page
    listen(document, "dragstart", () => (ours = true), { capture: true });
    for (const type of ["dragend", "pointermove"]) // the latter, if what was dragged has gone meanwhile
      listen(document, type, () => (ours = false), { capture: true });
    const offers = (event) =>
      !ours && !event.defaultPrevented && ["Files", "text/uri-list"].some((type) => event.dataTransfer?.types.includes(type));
    listen(document, "dragover", (event) => {
      if (!offers(event)) return;
      event.preventDefault(); // or the browser would open it, in place of this page
      if (closed()) event.dataTransfer.dropEffect = "none";
      else document.body.classList.add("dropping");
    });
    listen(document, "dragleave", (event) => {
      if (!event.relatedTarget) document.body.classList.remove("dropping");
    });
    listen(document, "drop", async (event) => {
      document.body.classList.remove("dropping");
      if (!offers(event)) return;
      event.preventDefault();
      if (closed()) return;
      const [files, entries] = [[...event.dataTransfer.files], entriesOf(event.dataTransfer)];
      if (!entries.some((entry) => entry.isDirectory)) return files.length ? send(files) : sender.note("address");
      const drop = ++newest;
      sender.note("looking");
      const photos = await photosIn(entries, model.get("most"), model.get("uncounted"));
      if (drop !== newest) return;
      if (photos.files.length) send(photos.files, photos.count);
      else sender.note("empty");
    });

    // Pasted
    listen(document, "paste", (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (!files.length || event.defaultPrevented || event.target.closest?.("input, textarea, [contenteditable=true]")) return;
      event.preventDefault();
      send(files);
    });

    const hint = Object.assign(document.createElement("p"), { className: "hint" });
    hint.textContent = "or drop them anywhere on this page, or paste one";
    const take = Object.assign(document.createElement("button"), { textContent: "Take a photo", onclick: () => camera.click() });
    take.className = "jupyter-widgets jupyter-button";
    el.append(touch ? take : hint);

    // The other widgets come and change when they like. The FileUpload counts the files that it sent itself, which are
    // none; and what appears as an answer is to be read aloud.
    const tidy = () => {
      for (const button of document.querySelectorAll(".choose")) {
        const label = button.textContent.replace(/ \(\d+\)$/, "");
        if (label !== button.textContent) button.textContent = label;
      }
      for (const answers of document.querySelectorAll(".answers:not([aria-live])")) answers.setAttribute("aria-live", "polite");
      for (const says of document.querySelectorAll(".answers .says")) {
        const live = says.classList.contains("coming") ? "off" : "polite"; // not every hundredth that has arrived
        if (says.getAttribute("aria-live") !== live) says.setAttribute("aria-live", live);
      }
      if (take.disabled !== closed()) take.disabled = closed();
    };
    const changes = new MutationObserver(tidy);
    const which = { childList: true, subtree: true, characterData: true, attributes: true, attributeFilter: ["class", "disabled"] };
    changes.observe(document.body, which);
    tidy();
    return () => {
      changes.disconnect();
      listening.abort();
      sender.close();
    };
  },
};
