"""bears.training.cleaning: the most suspicious first, and no decision is ever lost."""

import re

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, draw_folder
from playwright.sync_api import expect

from bears.training.cleaning import KEEP, ROW, ROWS, Cleaner
from bears.training.dataset import DELETE, check_photos, decide, read_decisions

LABELS = ["circle", "square", "triangle"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """36 drawings, none of which looks like another one."""
    photos, _ = check_photos(draw_folder(tmp_path_factory.mktemp("drawings"), 12))
    return photos.assign(group=photos.sha256)


def guessed(photos, **suspicious) -> pd.DataFrame:
    """Probabilities that name each label, but for photos (by their place) that are taken for another one."""
    sure = np.where(photos.label.to_numpy()[:, None] == np.array(LABELS), 0.9, 0.05)
    for place, probabilities in suspicious.items():
        sure[int(place.removeprefix("photo"))] = probabilities
    return pd.DataFrame(sure, index=photos.index, columns=LABELS)


def says(cleaner, **message):
    """As cleaner.js would."""
    cleaner._handle_custom_msg(message, [])


def marks(cleaner, *photos, to=None, reason=""):
    says(cleaner, event="mark", photos=[*photos], to=to, reason=reason)


def decided(file) -> set[tuple]:
    return {(row["from"], row["to"], row["reason"]) for row in read_decisions(file).values()}


def test_the_surest_mislabelled_come_first_with_the_guess_chosen_and_not_decided(photos, tmp_path):
    doubts = guessed(photos, photo20=[0.98, 0.01, 0.01], photo3=[0.1, 0.2, 0.7], photo30=[0.5, 0.5, 0])
    cleaner = Cleaner(photos, doubts, tmp_path / "cleaning.csv")
    first, second, third, fourth = cleaner.rows[0][:4]
    assert [card["sha256"] for card in (first, second, third)] == photos.sha256[[30, 20, 3]].tolist()
    assert (first["guess"], second["guess"], third["guess"]) == ("circle", "circle", "triangle")
    assert fourth["guess"] == KEEP and fourth["sure"] == 0.9
    assert sorted(cleaner.order) == sorted(photos.sha256)
    assert all(card["picture"].startswith("data:image/jpeg;base64,") for row in cleaner.rows for card in row)
    assert cleaner.marks == {} and not (tmp_path / "cleaning.csv").exists()


def test_look_alikes_with_different_labels_lie_side_by_side_and_in_one_row(photos, tmp_path):
    group = photos.group.copy()
    group[[1, 15, 29]] = "alike"  # of three labels
    group[[5, 6]] = "the same label"
    doubts = guessed(photos, photo29=[0.8, 0.1, 0.1], photo20=[0.5, 0.3, 0.2], photo21=[0.5, 0.3, 0.2])
    order = Cleaner(photos.assign(group=group), doubts, tmp_path / "cleaning.csv").order
    assert order[0] == photos.sha256[29] and {*order[1:3]} == {*photos.sha256[[1, 15]]}
    doubts.loc[[22, 23], :] = [0.9, 0.05, 0.05]
    cleaner = Cleaner(
        photos.assign(group=group.replace({group[22]: "1", group[23]: "2"})), doubts, tmp_path / "new.csv"
    )
    shown = [[card["sha256"] for card in row] for row in cleaner.rows]
    (together,) = [row for row in shown if photos.sha256[29] in row]
    assert {*photos.sha256[[1, 15]]} < {*together}


def test_a_row_is_not_broken_between_look_alikes_unless_there_are_too_many(photos, tmp_path):
    group = photos.group.copy()
    group[[0, 13, 14]], group[[1, 2, 16]], group[[*range(3, 12), 17]] = "a", "b", "c"
    doubts = guessed(photos, photo0=[0.01, 0.9, 0.09], photo1=[0.02, 0.9, 0.08], photo3=[0.03, 0.9, 0.07])
    cleaner = Cleaner(photos.assign(group=group), doubts, tmp_path / "cleaning.csv")
    assert [len(row) for row in cleaner.rows] == [3, 3, ROW, ROW]
    assert len(cleaner.rows) == ROWS and cleaner.screens == 2


def test_what_is_decided_is_in_the_file_at_once_and_there_again_with_another_cleaner(photos, tmp_path):
    file = tmp_path / "cleaning.csv"
    cleaner = Cleaner(photos, guessed(photos, photo3=[0.1, 0.2, 0.7]), file)
    one, two, three, four, five = cleaner.order[:5]
    marks(cleaner, one)
    marks(cleaner, two, three, to=DELETE, reason=" has corners ")
    marks(cleaner, four, to=KEEP, reason="has corners")
    marks(cleaner, five, to="square", reason="has corners")
    label = photos.set_index("sha256").label
    assert cleaner.marks == {one: "triangle", two: DELETE, three: DELETE, four: KEEP, five: "square"}
    assert decided(file) == {
        ("circle", "triangle", "by eye"),
        *((label[photo], DELETE, "has corners") for photo in (two, three)),
        (label[four], label[four], "has corners"),
        (label[five], "square", "has corners"),
    }
    assert cleaner.status.startswith("5 decisions in")
    again = Cleaner(photos, guessed(photos), file)
    assert {*again.order[-5:]} == {one, two, three, four, five}, "last, for they have been seen"
    assert again.marks == {}
    says(again, event="screen", screen=1)
    assert again.marks == cleaner.marks and again.screen == 1


def test_every_step_can_be_taken_back_to_what_was_before_it(photos, tmp_path):
    file = tmp_path / "cleaning.csv"
    decide(file, photos.sha256[7], "circle", "square", "before")
    cleaner = Cleaner(photos, guessed(photos), file)
    sent = []
    cleaner.send = lambda message: sent.append(message)
    states = [read_decisions(file)]
    for step in [((photos.sha256[7],), DELETE), ((*cleaner.order[:4],), None), ((cleaner.order[1],), "square")]:
        marks(cleaner, *step[0], to=step[1])
        states.append(read_decisions(file))
    says(cleaner, event="screen", screen=1)
    for state in states[-2::-1]:
        says(cleaner, event="undo")
        assert read_decisions(file) == state
    went = [message["photo"] for message in sent if message["event"] == "at"]
    assert went == [cleaner.order[1], cleaner.order[0], photos.sha256[7]]
    assert photos.sha256[7] in [card["sha256"] for row in cleaner.rows for card in row], "on its screen"
    says(cleaner, event="undo")
    assert cleaner.status == "There is nothing to take back." and read_decisions(file) == states[0]


def test_to_keep_is_to_keep_the_label_a_photo_stands_under(tmp_path):
    """Which after a decision is not the one of its folder; and what that was can be chosen again."""
    folder, file = draw_folder(tmp_path / "drawings", 12), tmp_path / "cleaning.csv"
    first, _ = check_photos(folder)
    moved = first[first.label == "circle"].sha256.iloc[0]
    decide(file, moved, "circle", "square", "has corners")
    photos, _ = check_photos(folder, file)
    cleaner = Cleaner(photos.assign(group=photos.sha256), guessed(photos), file)
    before = read_decisions(file)
    says(cleaner, event="screen", screen=1)
    assert cleaner.marks == {moved: KEEP}
    marks(cleaner, moved, to=KEEP)
    assert read_decisions(file) == before, "with its reason"
    marks(cleaner, moved, to=DELETE)
    assert read_decisions(file)[moved]["to"] == DELETE
    marks(cleaner, moved, to=KEEP)
    assert read_decisions(file)[moved]["to"] == "square"
    marks(cleaner, moved, to="circle")
    assert read_decisions(file)[moved]["to"] == "circle" and cleaner.marks == {moved: "circle"}


def test_a_kept_photo_gets_no_remark_in_the_next_run(tmp_path):
    folder, file = draw_folder(tmp_path / "drawings", 12), tmp_path / "cleaning.csv"
    photos, _ = check_photos(folder)
    cleaner = Cleaner(photos, guessed(photos), file)
    marks(cleaner, *cleaner.order[:10], to=KEEP)
    again, remarks = check_photos(folder, file)
    assert remarks.empty and again.equals(photos)


def test_a_decision_that_cannot_be_written_is_not_lost_in_silence(photos, tmp_path, monkeypatch):
    def full(contents):
        raise OSError("No space left on device")

    cleaner = Cleaner(photos, guessed(photos), tmp_path / "cleaning.csv")
    with monkeypatch.context() as patch:
        patch.setattr("bears.training.dataset.write_whole", full)
        marks(cleaner, cleaner.order[0], to=DELETE)
    assert cleaner.status == "NOT written: No space left on device" and cleaner.marks == {}
    says(cleaner, event="undo")
    assert cleaner.status == "There is nothing to take back."


def test_a_decision_that_was_there_already_is_answered_too(photos, tmp_path):
    """Or cleaner.js would wait for it for ever."""
    cleaner = Cleaner(photos, guessed(photos), tmp_path / "cleaning.csv")
    sent = []
    cleaner.send = lambda message: sent.append(message)
    for _ in range(2):
        marks(cleaner, cleaner.order[0], to=KEEP)
    assert sent == [{"event": "done"}] * 2 and cleaner.marks == {cleaner.order[0]: KEEP}
    says(cleaner, event="undo")
    assert cleaner.marks == {}, "one step"


def test_a_reason_that_is_no_text_is_said(photos, tmp_path):
    cleaner = Cleaner(photos, guessed(photos), tmp_path / "cleaning.csv")
    marks(cleaner, cleaner.order[0], to=KEEP, reason="\ud800")
    assert cleaner.status.startswith("NOT written") and not (tmp_path / "cleaning.csv").exists()


@pytest.mark.parametrize("message", [
    None, {}, {"event": "mark"}, {"event": "mark", "photos": [{}, 7, "f" * 64], "to": KEEP},
    {"event": "mark", "photos": ["0"], "to": "another label"}, {"event": "mark", "photos": ["0"], "to": []},
])  # fmt: skip
def test_what_is_not_understood_does_nothing(photos, tmp_path, message):
    cleaner = Cleaner(photos, guessed(photos), tmp_path / "cleaning.csv")
    cleaner._handle_custom_msg(message, [])
    assert not (tmp_path / "cleaning.csv").exists()
    says(cleaner, event="screen", screen=99)
    assert cleaner.screen == 1


def test_of_a_photo_of_which_nothing_is_known_nothing_is_guessed(photos, tmp_path):
    doubts = guessed(photos, photo4=[np.nan] * 3)
    cleaner = Cleaner(photos, doubts, tmp_path / "cleaning.csv")
    assert cleaner.order[-1] == photos.sha256[4]
    says(cleaner, event="screen", screen=1)
    card = cleaner.rows[-1][-1]
    assert (card["guess"], card["sure"], card["likely"]) == (KEEP, None, LABELS)


def test_a_photo_that_has_gone_meanwhile_is_named(photos, tmp_path):
    gone = photos.assign(file=[tmp_path / file.name for file in photos.file])
    cleaner = Cleaner(gone, guessed(gone), tmp_path / "cleaning.csv")
    assert {card["picture"] for row in cleaner.rows for card in row} == {""}


# cleaner.js, with a model that is played

MODEL = """(state) => {
  const heard = {};
  window.sent = [];
  window.model = {
    get: (name) => state[name],
    set: (name, value) => (state[name] = value),
    save_changes() {},
    on: (event, handler) => (heard[event] = handler),
    off() {},
    send: (message) => sent.push(message),
  };
  window.tell = (changes) => {
    Object.assign(state, changes);
    for (const name of Object.keys(changes)) heard[`change:${name}`]?.();
  };
  window.hear = (message) => heard["msg:custom"](message);
}"""


class Screen:
    """cleaner.js in a browser."""

    def __init__(self, page, lengths: list[int], vocab: list[str]):
        self.page = page
        names = iter("abcdefghijklmnopqrstuvwxyz")
        rows = [[self.card(next(names), vocab) for _ in range(length)] for length in lengths]
        state = {"vocab": vocab, "rows": rows, "marks": {}, "screen": 0, "screens": 3, "status": ""}
        page.set_content("<div id=here></div>")
        page.evaluate(MODEL, state)
        script = (ROOT / "bears" / "training" / "cleaner.js").read_text()
        page.add_script_tag(content=script.replace("export default", "window.cleaner =").replace("export ", ""))
        page.add_style_tag(path=ROOT / "bears" / "training" / "cleaner.css")
        page.evaluate("cleaner.render({ model, el: document.getElementById('here') })")

    @staticmethod
    def card(name: str, vocab: list[str]) -> dict:
        likely = vocab[::-1][:9]
        return dict(sha256=name, name=name, label=vocab[0], guess=likely[0], sure=0.8, likely=likely, picture="")

    def presses(self, *keys: str):
        for key in keys:
            self.page.keyboard.press(key)

    def sent(self) -> list:
        """What was said to the kernel since this was asked last."""
        said = self.page.evaluate("sent.splice(0)")
        return [
            ["".join(message["photos"]), message["to"]] if "photos" in message
            else f"{message['event']}{message.get('screen', '')}"
            for message in said
        ]  # fmt: skip

    def tells(self, **changes):
        self.page.evaluate("(changes) => tell(changes)", changes)

    @property
    def current(self) -> str:
        return self.page.evaluate("document.activeElement.querySelector('span')?.textContent")

    def states(self) -> str:
        """The first letter of each photo's state."""
        return "".join(node.get_attribute("data-state")[0] for node in self.page.locator(".photo").all())


@pytest.fixture
def page(browser):
    page = browser.new_page()
    yield page
    page.close()


def test_the_keyboard_does_it_all(page):
    screen = Screen(page, [3, 2], ["black", "grizzly", "teddy"])
    screen.presses("Tab", "Tab", "Tab", "Tab")
    assert screen.current == "a", "after the buttons and the reason; what cannot be pressed is left out"
    screen.presses("Enter", "k", "2")
    assert screen.sent() == [["a", None], ["b", KEEP], ["c", "grizzly"]] and screen.current == "d"
    assert screen.states() == "wwwoo", "waiting until the kernel says that it is written"
    screen.tells(marks={"a": "teddy", "b": KEEP, "c": "grizzly"})
    assert screen.states() == "mkmoo"
    screen.presses("ArrowUp", "Delete", "ArrowRight", "D", "u", "Control+z", "PageDown", "PageUp", "x")
    assert screen.sent() == [["a", DELETE], ["e", DELETE], "undo", "undo", "screen1"]
    assert screen.current == "d", "the only one that is open"


def test_with_shift_it_is_what_is_open_in_the_row(page):
    screen = Screen(page, [3, 2, 2], ["black", "grizzly", "teddy"])
    page.locator(".photo").nth(1).click()
    screen.presses("k", "Shift+Enter", "Shift+Digit3", "Shift+D")
    assert screen.sent() == [["b", KEEP], ["ac", None], ["de", "teddy"], ["fg", DELETE]]
    for _ in range(4):
        page.evaluate("hear({ event: 'done' })")
    page.get_by_role("button", name="Take guesses").nth(1).click()
    page.get_by_role("button", name="Keep all").nth(2).click()
    assert screen.sent() == [["de", None], ["fg", KEEP]]


def test_the_arrows_move_between_rows_of_different_lengths_and_to_the_next_screen(page):
    screen = Screen(page, [3, 1, 2], ["black", "grizzly", "teddy"])
    page.locator(".photo").nth(2).click()
    went = []
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight", "ArrowUp", "ArrowUp", "ArrowLeft"):
        screen.presses(key)
        went.append(screen.current)
    assert went == ["d", "e", "f", "f", "d", "a", "a"]
    screen.presses("ArrowUp")
    assert screen.sent() == []
    page.locator(".photo").nth(5).click()
    screen.presses("ArrowDown")
    assert screen.sent() == ["screen1"]
    screen.tells(screen=1, rows=[[screen.card(name, ["black", "grizzly"]) for name in "xyz"]], marks={"x": KEEP})
    assert screen.current == "y" and page.locator(".where").inner_text() == "2 of 3", "the first that is open"
    page.get_by_role("button", name="Next").click()
    screen.tells(screen=2, rows=[[screen.card(name, ["black", "grizzly"]) for name in "uvw"]], marks={})
    assert screen.current == "u", "the keys go on there"


def test_with_many_labels_digits_are_for_the_likely_ones_and_the_list_has_all(page):
    screen = Screen(page, [2], [f"kind {number}" for number in range(40)])
    page.locator(".photo").first.click()
    expect(page.locator(".keys")).to_contain_text(re.compile("1 kind 39 .* 9 kind 31"))
    screen.presses("9")
    page.locator(".photo select").nth(1).select_option("kind 7")
    assert screen.sent() == [["a", "kind 31"], ["b", "kind 7"]]


def test_in_a_list_and_in_the_reason_keys_mean_what_they_do_there(page):
    screen = Screen(page, [2], ["black", "grizzly", "teddy"])
    page.get_by_label("Reason").click()
    screen.presses("k", "d", "1", "Enter")
    assert screen.sent() == [] and screen.current == "a"
    screen.presses("k")
    assert page.evaluate("sent.splice(0)") == [
        {"event": "mark", "photos": ["a"], "to": KEEP, "reason": "kd1"}
    ]  # fmt: skip
    page.locator(".photo select").first.focus()
    screen.presses("u")
    assert screen.sent() == []
    screen.presses("Escape", "d")
    assert screen.sent() == [["b", DELETE]]


def test_whoever_writes_a_reason_is_not_fetched_back_and_a_key_that_is_held_decides_once(page):
    screen = Screen(page, [3], ["black", "grizzly", "teddy"])
    page.get_by_role("button", name="Next").click()
    page.get_by_label("Reason").click()
    screen.tells(screen=1, rows=[[screen.card(name, ["black", "grizzly"]) for name in "xyz"]])
    page.evaluate("hear({ event: 'at', photo: 'y' })")
    screen.presses("d", "k")
    assert screen.sent() == ["screen1"] and page.get_by_label("Reason").input_value() == "dk"
    page.locator(".photo").first.click()
    page.keyboard.down("d")
    page.keyboard.down("d")  # as a key that is held repeats
    page.keyboard.up("d")
    assert screen.sent() == [["x", DELETE]]


def test_enter_leaves_what_is_decided_and_goes_on_when_all_is(page):
    screen = Screen(page, [2], ["black", "grizzly", "teddy"])
    page.locator(".photo").first.click()
    screen.presses("k", "ArrowLeft", "Enter", "ArrowRight", "k", "Enter")
    assert screen.sent() == [["a", KEEP], ["b", KEEP], "screen1"]
    screen.presses(" ")
    assert page.evaluate("document.activeElement.tagName") == "SELECT", "the list has all labels"


def test_what_was_not_written_is_open_again_and_what_was_taken_back_is_where_keys_go(page):
    screen = Screen(page, [3], ["black", "grizzly", "teddy"])
    page.locator(".photo").first.click()
    screen.presses("Enter", "Enter")
    page.evaluate("hear({ event: 'done' })")
    assert screen.states() == "wwo", "two were sent, and one is answered"
    page.evaluate("hear({ event: 'done' })")
    assert screen.states() == "ooo"
    page.evaluate("hear({ event: 'at', photo: 'b' })")
    assert screen.current == "b"
    screen.tells(status="NOT written: No space left on device")
    expect(page.get_by_role("status")).to_have_text("NOT written: No space left on device")
