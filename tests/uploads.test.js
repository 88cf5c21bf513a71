// bears/serving/uploads.js without a browser: node --test tests/uploads.test.js, which tests/test_uploads.py runs.

import assert from "node:assert/strict";
import { test } from "node:test";
import { entriesOf, photosIn, Sender } from "../bears/serving/uploads.js";

// anywidget's model, and behind it a kernel that does as uploads.py says; `lose(message)` decides what is lost on the way.
class Model {
  said = []; // the event of each message that arrived, with the file's number
  lots = []; // for each lot that was announced, the content of its files as far as it has arrived
  state = { most: 20, largest: 1000, side: 512, uncounted: 50 };
  lose = () => false;
  delay = () => 0; // ms, of the answer to a message
  #handlers = new Set();

  get = (name) => this.state[name];
  on = (event, handler) => event === "msg:custom" && this.#handlers.add(handler);
  off = (event, handler) => event === "msg:custom" && this.#handlers.delete(handler);

  send(message, callbacks, buffers = []) {
    if (this.lose(message)) return;
    this.said.push(message.event + (message.file ?? ""));
    const answer = this.hear(message, buffers[0]);
    if (answer) setTimeout(() => this.#handlers.forEach((handler) => handler({ event: "got", ...answer })), this.delay(message));
  }

  hear({ event, lot, file, start, of, files, count }, buffer) {
    if (event === "lot" && lot !== this.lot) {
      this.lots.push(files.map(() => ""));
      [this.lot, this.files, this.count] = [lot, files, count];
    }
    if (event === "lot") return { lot };
    if (event === "failed" || event === "slow") return { lot, file, bytes: 0 };
    if (event !== "piece") return null;
    if (lot !== this.lot) return { lot, file, bytes: of };
    const has = this.lots.at(-1)[file];
    if (start <= has.length) this.lots.at(-1)[file] += new TextDecoder().decode(buffer).slice(has.length - start);
    return { lot, file, bytes: this.lots.at(-1)[file].length, gap: start > has.length };
  }
}

const file = (name, content) => new File([content], name);
const unreadable = (name) => ({ name, size: 9, arrayBuffer: () => Promise.reject(new Error("NotReadableError")) });
const asItIs = async (photo) => photo;
const sender = (model, options) => new Sender(model, { smaller: asItIs, lost: 300, slow: 300, ...options });

test("each file of a lot arrives, after its name and size", async () => {
  const model = new Model();
  await sender(model).send([file("a.jpg", "one"), file("b.jpg", "two")]);
  assert.deepEqual(model.files, [{ name: "a.jpg", size: 3 }, { name: "b.jpg", size: 3 }]);
  assert.deepEqual(model.lots, [["one", "two"]]);
});

test("a file that cannot be read fails, and no other with it: in this lot, and in the next", async () => {
  const model = new Model();
  const sending = sender(model);
  await sending.send([unreadable("folder"), file("b.jpg", "two"), unreadable("gone")]);
  assert.deepEqual(model.lots, [["", "two", ""]]);
  assert.deepEqual(model.said, ["lot", "failed0", "piece1", "failed2"]);
  await sending.send([file("c.jpg", "three")]);
  assert.deepEqual(model.lots.at(-1), ["three"]);
});

test("a file that turns out to have nothing in it fails", async () => {
  const model = new Model();
  await sender(model, { smaller: async () => new Blob([]) }).send([file("a.jpg", "one")]);
  assert.deepEqual(model.said, ["lot", "failed0"]);
});

test("empty and too large files are announced, and not read", async () => {
  const model = new Model();
  const large = { name: "large", size: 1001, arrayBuffer: () => assert.fail("it was read") };
  await sender(model).send([file("empty", ""), large]);
  assert.deepEqual(model.files.map(({ size }) => size), [0, 1001]);
  assert.deepEqual(model.said, ["lot"]);
});

test("of too many files the first are sent, and it says how many there were", async () => {
  const model = new Model();
  model.state.most = 2;
  await sender(model).send([file("a", "1"), file("b", "2"), file("c", "3")]);
  assert.equal(model.files.length, 2);
  assert.equal(model.count, 3);
});

const long = "0123456789abcdef".repeat(40_000); // 640 kB: ten pieces of the first size

test("a large file comes in pieces, two at a time", async () => {
  const model = new Model();
  model.state.largest = 10 ** 7;
  const large = long.repeat(8); // 5 MB
  let [pieces, ahead] = [0, 0];
  model.lose = ({ event, start }) => {
    if (event !== "piece") return false;
    pieces += 1;
    ahead = Math.max(ahead, start - model.lots[0][0].length);
    return false;
  };
  await sender(model).send([file("large", large)]);
  assert.equal(model.lots[0][0], large);
  assert.ok(pieces > 5 && pieces <= 80, `${pieces} pieces`);
  assert.ok(ahead <= 2 * 1024 * 1024, `${ahead} bytes ahead of what has arrived`);
});

for (const [what, lose] of Object.entries({
  "the announcement": ({ event }, before) => event === "lot" && before.lot === 0,
  "the first piece": ({ event }, before) => event === "piece" && before.piece === 0,
  "a piece in the middle": ({ event }, before) => event === "piece" && before.piece === 2,
  "the last piece": ({ event, start, of }, before) => event === "piece" && start > of - 100_000 && !before.last++,
  "every third message": (message, before) => ++before.all % 3 === 0,
  "the word that one failed": ({ event }, before) => event === "failed" && before.failed === 0,
})) {
  test(`${what} is sent again when it was lost`, async () => {
    const model = new Model();
    model.state.largest = 10 ** 6;
    const before = { lot: 0, piece: 0, failed: 0, last: 0, all: 0 };
    model.lose = (message) => {
      const lost = lose(message, before);
      before[message.event] += 1;
      return lost;
    };
    await sender(model).send([file("long", long), unreadable("gone"), file("short", "short")]);
    assert.deepEqual(model.lots, [[long, "", "short"]]);
    assert.ok(model.said.includes("failed1"));
  });
}

test("a gap is filled as soon as the kernel speaks of it", { timeout: 20_000 }, async () => {
  const model = new Model();
  model.state.largest = 10 ** 6;
  let pieces = 0;
  model.lose = ({ event }) => event === "piece" && ++pieces === 3;
  await sender(model, { lost: 600_000 }).send([file("long", long)]);
  assert.equal(model.lots[0][0], long);
});

test("a lot takes the place of the one before, of which nothing more is sent", async () => {
  const model = new Model();
  model.state.largest = 10 ** 6;
  const sending = sender(model, { lost: 10_000 });
  let second, first;
  let late = 0;
  model.lose = ({ event, lot }) => {
    first ??= lot;
    if (event === "piece" && second) late += lot === first;
    if (event === "piece") second ??= sending.send([file("next", "next")]);
    return false;
  };
  await sending.send([file("long", long), file("never", "never")]);
  await second;
  assert.ok(late <= 1, `${late} pieces of the first lot after the second began`);
  assert.equal(model.lots.length, 2);
  assert.deepEqual(model.lots[1], ["next"]);
  assert.equal(model.lots[0][1], "");
});

test("a file that takes long to read does not hold up the others, and arrives in the end", async () => {
  const model = new Model();
  const content = new TextEncoder().encode("late").buffer;
  const slow = { name: "cloud", size: 4, arrayBuffer: () => new Promise((go) => setTimeout(go, 600, content)) };
  await sender(model).send([slow, file("b", "two")]);
  assert.deepEqual(model.lots, [["", "two"]]);
  assert.deepEqual(model.said, ["lot", "slow0", "piece1"]);
  await new Promise((go) => setTimeout(go, 900));
  assert.deepEqual(model.lots, [["late", "two"]]);
});

test("the late answer to a piece that came twice is none to the word that the next one failed", async () => {
  const model = new Model();
  let [pieces, words] = [0, 0];
  model.delay = ({ event }) => (event === "piece" && pieces++ === 0 ? 500 : 0);
  model.lose = ({ event }) => event === "failed" && words++ === 0;
  await sender(model).send([file("a", "one"), unreadable("gone")]);
  assert.deepEqual(model.said, ["lot", "piece0", "piece0", "failed1"]);
});

test("the word that one is slow is sent again when it was lost", async () => {
  const model = new Model();
  let words = 0;
  model.lose = ({ event }) => event === "slow" && words++ === 0;
  const never = { name: "cloud", size: 4, arrayBuffer: () => new Promise(() => {}) };
  await sender(model).send([never, file("b", "two")]);
  assert.deepEqual(model.said, ["lot", "slow0", "piece1"]);
});

test("after its end it sends nothing more", async () => {
  const model = new Model();
  const sending = sender(model);
  model.lose = ({ event }) => event === "piece" && (sending.close(), true);
  await sending.send([file("a", "one"), file("b", "two")]);
  assert.deepEqual(model.said, ["lot"]);
});

test("what cannot be said does not end all that follows", async (t) => {
  t.mock.method(console, "error", () => {});
  const model = new Model();
  const sending = sender(model);
  const send = model.send;
  model.send = () => {
    throw new Error("the connection is closed");
  };
  await sending.send([file("a", "one")]);
  model.send = send;
  await sending.send([file("b", "two")]);
  assert.deepEqual(model.lots, [["two"]]);
});

// Folders

const entry = (name, content = name, type = "image/jpeg") => ({
  name,
  isDirectory: Array.isArray(content),
  file: (go, fail) => (content === null ? fail(new Error("NotFoundError")) : go(new File([content], name, { type }))),
  createReader() {
    const rest = [...content];
    const some = (go, fail) => (rest[0] === null ? fail(new Error("NotReadableError")) : go(rest.splice(0, 3)));
    return { readEntries: some }; // browsers give a hundred at a time
  },
});
const transfer = (...entries) => ({
  items: [...entries.map((entry) => ({ webkitGetAsEntry: () => entry })), { webkitGetAsEntry: () => null }],
  files: entries.map(({ name }) => new File(["a"], name)),
});
const dropped = (transfer, ...limits) => photosIn(entriesOf(transfer), ...limits);
const names = ({ files }) => files.map(({ name }) => name);

test("a folder gives its photos, in order, with those in folders inside, and nothing else", async () => {
  const inner = entry("in", [entry("z.heic", "z", ""), entry("film.mp4", "f", "video/mp4")]);
  const odds = [entry(".DS_Store"), entry("Thumbs.db", "t", ""), entry("9.AAE", "a", "")];
  const found = await dropped(transfer(entry("out", [entry("10.jpg"), entry("9.jpg"), inner, ...odds])), 20, 50);
  assert.deepEqual(names(found), ["9.jpg", "10.jpg", "z.heic"]);
  assert.equal(found.count, 3);
});

test("files beside a folder are taken whatever they are", async () => {
  const found = await dropped(transfer(entry("notes.txt", "n", "text/plain"), entry("out", [entry("a.jpg")])), 20, 50);
  assert.deepEqual(names(found), ["notes.txt", "a.jpg"]);
});

test("of a large folder the first photos are taken, and the others are counted, up to a limit", async () => {
  const folder = (count) => transfer(entry("out", Array.from({ length: count }, (_, number) => entry(`${number}`))));
  assert.equal((await dropped(folder(30), 20, 50)).count, 30);
  const found = await dropped(folder(80), 20, 50);
  assert.deepEqual([found.files.length, found.count], [20, 51]);
});

test("a file in a folder that cannot be opened fails like any other", async () => {
  const found = await dropped(transfer(entry("out", [entry("gone.jpg", null), entry("a.jpg")])), 20, 50);
  const model = new Model();
  await sender(model).send(found.files);
  assert.deepEqual(model.lots, [["a.jpg", ""]]);
  assert.ok(model.said.includes("failed1"));
});

for (const [what, content] of Object.entries({ nothing: [null], "not all": [entry("a"), entry("b"), entry("c"), null] })) {
  test(`a folder of which ${what} can be read is among what fails`, async () => {
    const found = await dropped(transfer(entry("out", content)), 20, 50);
    const model = new Model();
    await sender(model).send(found.files);
    assert.equal(model.files.at(-1).name, "out/");
    assert.deepEqual(model.lots[0].filter(Boolean).length, content.length - 1);
    assert.equal(model.said.at(-1), `failed${content.length - 1}`);
  });
}

test("a folder of very many files that are no photos is not looked through for ever", async () => {
  let opened = 0;
  const note = { name: "n", isDirectory: false, file: (go) => go(new File([], `${++opened}`, { type: "text/plain" })) };
  const found = await dropped(transfer(entry("out", Array(5000).fill(note))), 20, 50);
  assert.deepEqual(names(found), []);
  assert.ok(opened < 600, `${opened} files opened`);
});
