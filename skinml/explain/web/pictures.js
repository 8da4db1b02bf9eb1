"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const classes = data.classes.map((name) => name.replaceAll("_", " "));
const form = document.getElementById("filters");
const field = (name) => form.elements.namedItem(name);
const grid = document.getElementById("grid");
const dialog = document.getElementById("one");
const part = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// What a map's value is drawn as: nothing where nothing speaks for the class, then this scale.
const COLOURS = data.colours;

function draw(canvas, picture, label) {
  const [height, width] = data.shape;
  const bytes = atob(picture.maps);
  const small = make("canvas", { width, height });
  const cells = new ImageData(width, height);
  for (let cell = 0; cell < width * height; cell++) {
    const value = bytes.charCodeAt(label * width * height + cell);
    cells.data.set([...COLOURS[value >> 4], Math.round(0.62 * value)], 4 * cell);
  }
  small.getContext("2d").putImageData(cells, 0, 0);
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

const pictures = data.pictures;
for (const picture of pictures) {
  picture.answer = picture.scores.indexOf(Math.max(...picture.scores));
  picture.right = picture.answer === picture.true;
  picture.source = `data:image/jpeg;base64,${picture.jpeg}`;
  const canvas = make("canvas", { width: 112, height: 112 });
  picture.score = make("span", { className: "score" });
  picture.card = make("button",
    { className: picture.right ? "right" : "wrong", type: "button", tabIndex: -1 },
    make("div", { className: "over" },
      make("img", { src: picture.source, alt: "", loading: "lazy" }), canvas),
    make("span", { className: "verdict" },
      picture.right ? `✓ ${classes[picture.true]}`
        : `✗ ${classes[picture.answer]}, truly ${classes[picture.true]}`),
    picture.score);
  picture.card.addEventListener("click", () => look(picture));
  draw(canvas, picture, picture.answer);
}

function fill(select, names, first) {
  select.append(make("option", { value: "", textContent: first }));
  names.forEach((name, number) =>
    select.append(make("option", { value: String(number), textContent: name })));
}
fill(field("true"), classes, "all");
fill(field("answer"), classes, "all");
fill(field("of"), classes, "the answer");
for (const [name, values] of Object.entries(data.subgroups)) {
  const select = make("select", { name: `subgroup:${name}` });
  fill(select, values.map((value) => value || "not known"), "all");
  part("subgroups").append(make("label", {}, name.replaceAll("_", " "), " ", select));
}

const chosen = (name) => field(name).value === "" ? null : Number(field(name).value);
let shown = [];

function apply() {
  const of = chosen("of");
  const score = (picture) => picture.scores[of ?? picture.answer];
  const [low, high] = ["low", "high"].map((name) => Number(field(name).value));
  const order = field("order").value;
  shown = pictures.filter((picture) =>
    [null, picture.true].includes(chosen("true"))
    && [null, picture.answer].includes(chosen("answer"))
    && ["", picture.right ? "right" : "wrong"].includes(field("right").value)
    // As it is shown: two digits in the form, so 0.50 is not kept out by a hundredth's share.
    && score(picture) >= low - 1e-9 && score(picture) <= high + 1e-9
    && Object.keys(data.subgroups).every((name) =>
      [null, picture.subgroups[name]].includes(chosen(`subgroup:${name}`))));
  const direction = order === "up" ? 1 : -1;
  shown.sort(order === "id" ? (a, b) => (a.id < b.id ? -1 : 1)
    : (a, b) => direction * (score(a) - score(b)));
  for (const picture of shown) {
    picture.score.textContent = `${score(picture).toFixed(3)} · ${picture.id}`;
    picture.card.tabIndex = -1;
  }
  grid.replaceChildren(...shown.map((picture) => picture.card));
  if (shown.length) shown[0].card.tabIndex = 0;
  const wrong = shown.filter((picture) => !picture.right).length;
  part("count").textContent =
    `${shown.length} of ${pictures.length} pictures, ${wrong} of them answered wrongly`;
  document.body.classList.toggle("maps", field("maps").checked);
  const said = new URLSearchParams(new FormData(form));
  // A form says nothing of a box that is not ticked.
  if (!field("maps").checked) said.set("maps", "off");
  history.replaceState(null, "", `#${said}`);
}

// The arrow keys move within the grid: one stop of the Tab key, whatever its size.
grid.addEventListener("keydown", (event) => {
  const cards = [...grid.children];
  const now = cards.indexOf(document.activeElement);
  const row = cards.findIndex((card) => card.offsetTop > cards[0].offsetTop);
  const columns = row < 0 ? cards.length : row;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns,
    Home: -now, End: cards.length - 1 - now }[event.key];
  const target = cards[now + step];
  if (now < 0 || !target) return;
  event.preventDefault();
  cards[now].tabIndex = -1;
  target.tabIndex = 0;
  target.focus();
});

let current = null;

function look(picture, label = picture.answer) {
  current = picture;
  const head = part("name");
  head.className = picture.right ? "" : "wrong";
  head.replaceChildren(picture.id, make("small", {
    textContent: `answer ${classes[picture.answer]}, truly ${classes[picture.true]}`,
  }));
  part("picture").src = part("under").src = picture.source;
  part("scores").replaceChildren(...classes.map((name, number) => {
    const choice = make("input", { type: "radio", name: "label", checked: number === label });
    choice.addEventListener("change", () => show(number));
    return make("tr", { className: number === picture.answer ? "first" : "" },
      make("td", {}, make("label", {}, choice, ` ${name}`)),
      make("td", { className: "share" }, make("meter", { max: 1, value: picture.scores[number] })),
      make("td", { textContent: picture.scores[number].toFixed(3) }));
  }));
  part("facts").textContent = Object.entries(data.subgroups).map(([name, values]) =>
    `${name.replaceAll("_", " ")}: ${values[picture.subgroups[name]] || "not known"}`).join(" · ");
  const place = shown.indexOf(picture);
  // Not `disabled`: a button would lose the focus by it, and the dialog the keys.
  part("before").setAttribute("aria-disabled", place <= 0);
  part("next").setAttribute("aria-disabled", place === shown.length - 1);
  show(label);
  if (!dialog.open) dialog.showModal();
}

function show(label) {
  draw(part("map"), current, label);
  part("map").setAttribute("aria-label", `map of what speaks for ${classes[label]}`);
  part("what").textContent = classes[label];
}

function go(step) {
  const target = shown[shown.indexOf(current) + step];
  if (target) look(target);
}
part("before").addEventListener("click", () => go(-1));
part("next").addEventListener("click", () => go(1));
part("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("close", () => {
  for (const picture of shown) picture.card.tabIndex = -1;
  current.card.tabIndex = 0;
  current.card.focus();
});
dialog.addEventListener("keydown", (event) => {
  // A radio button has the arrow keys for itself.
  if (event.target.type === "radio") return;
  if (event.key === "ArrowRight") go(1);
  if (event.key === "ArrowLeft") go(-1);
});

/** The filters that the address holds; those that it does not are as they were at first. */
function readAddress() {
  form.reset();
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
    const found = field(name);
    if (found?.type === "checkbox") found.checked = value !== "off";
    else if (found) found.value = value;
  }
}
readAddress();
// A link to other filters of the page that is open already.
addEventListener("hashchange", () => {
  readAddress();
  apply();
});
form.addEventListener("input", apply);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(apply));
apply();
