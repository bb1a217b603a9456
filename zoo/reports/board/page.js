"use strict";
// The page's state is what the URL's fragment says; every change writes it there, and draws what it touches.
const DATA = JSON.parse(document.getElementById("data").textContent);
const SYMBOLS = ["circle", "diamond", "square", "triangle", "star", "wye", "cross", "times", "asterisk", "plus", "circle"];
// Of 12 px, as drawn in the table and the legend; the plots draw Plot's symbols of these names.
const PATHS = {
  circle: "M6 1a5 5 0 1 0 .01 0z", diamond: "M6 0l4 6-4 6-4-6z", square: "M1.5 1.5h9v9h-9z", triangle: "M6 1l5.5 9.5h-11z",
  star: "M6 0l1.5 4.2H12L8.400 6.900l1.300 4.300L6 8.600l-3.700 2.600 1.300-4.300L0 4.200h4.500z", wye: "M4.500 12V6.900L0 4.300l1.500-2.600L6 4.300l4.500-2.600L12 4.300 7.500 6.900V12z",
  cross: "M4 0h4v4h4v4H8v4H4V8H0V4h4z", times: "M1 1l10 10M11 1L1 11", asterisk: "M6 0v12M.8 3l10.400 6M.8 9l10.400-6", plus: "M6 0v12M0 6h12",
};
const STROKED = new Set(["times", "asterisk", "plus"]);
const MEAN = 1, LOW = 2, HIGH = 3, OVER = 4, BEST = 5, SEEDS = 6;
const NAME = "name", SEEDS_COLUMN = "seeds", MADE = "made";
const app = document.getElementById("app"), dialog = document.getElementById("open"), tip = document.getElementById("tip");

function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.flat(3).filter(child => child !== null && child !== undefined && child !== false));
  return element;
}
const familyNumber = row => DATA.families.indexOf(row.family);
function mark(row) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), path = document.createElementNS(svg.namespaceURI, "path");
  const number = familyNumber(row), symbol = SYMBOLS[number];
  svg.setAttribute("class", "mark"); svg.setAttribute("viewBox", "0 0 12 12"); svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", PATHS[symbol]);
  path.setAttribute("style", STROKED.has(symbol) ? `stroke:var(--f${number});stroke-width:2.2;fill:none` : `fill:var(--f${number})`);
  svg.append(path);
  return svg;
}

// --- State

let state;
const KEYS = ["board", "view", "kind", "sort", "q", "net", "likelihood", "row", "vs", "x", "y"];
const board = () => DATA.boards.find(b => b.title === state.board) ?? DATA.boards[0];
const view = () => board().views.find(v => v.name === state.view) ?? board().views[0];
const kind = () => board().kinds.includes(state.kind) ? state.kind : board().kinds[0] ?? "";
const column = key => board().columns.findIndex(c => c.key === key);

function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  state = Object.fromEntries(KEYS.map(key => [key, given.get(key) ?? ""]));
  state.family = new Set(given.getAll("family"));
  state.columns = [...new Set(given.getAll("column"))];
}
function write() {
  const kept = new URLSearchParams();
  for (const key of KEYS) if (state[key]) kept.append(key, state[key]);
  for (const family of state.family) kept.append("family", family);
  for (const head of state.columns) kept.append("column", head);
  try { history.replaceState(null, "", `#${kept}`); } catch { location.replace(`#${kept}`); }
}
function set(changes, draw = show) { Object.assign(state, changes); write(); draw(); }

/** Numbers of the columns that are shown. */
function shown() {
  const allowed = number => number >= 0 && ["", kind()].includes(board().columns[number].kind);
  const chosen = state.columns.map(column).filter(allowed);
  return chosen.length ? chosen.slice(0, DATA.most) : view().shown[kind()] ?? Object.values(view().shown)[0] ?? [];
}
/** [what is sorted by: a column's number or NAME, SEEDS_COLUMN; 1 upwards or -1] */
function order() {
  const [, head, way] = state.sort.match(/^(.*) (up|down)$/s) ?? [];
  const by = [NAME, SEEDS_COLUMN, MADE].includes(head) ? head : head === undefined ? -1 : column(head);
  if (by !== -1) return [by, way === "up" ? 1 : -1];
  const first = shown().find(number => board().columns[number].arrow && board().columns[number].better) ?? shown()[0];
  return first === undefined ? [NAME, 1] : [first, board().columns[first].better < 0 ? 1 : -1];
}
const value = (row, by) => by === NAME ? row.name : by === SEEDS_COLUMN ? row.seeds.length : by === MADE ? row.made : row.cells[by]?.[MEAN];
function rows() {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const found = board().rows.filter(row =>
    (!state.family.size || state.family.has(row.family)) && (!state.net || row.net === state.net) &&
    (!state.likelihood || row.likelihood === state.likelihood) &&
    words.every(word => `${row.name} ${row.variant} ${row.options} ${row.family}`.toLowerCase().includes(word)));
  const [by, way] = order(), missing = row => [undefined, null].includes(value(row, by));
  const compare = (a, b) => typeof a === "string" ? a.localeCompare(b, undefined, {numeric: true}) : a - b;
  return found.sort((a, b) => missing(a) - missing(b) || (missing(a) ? 0 : way * compare(value(a, by), value(b, by))));
}

// --- Controls and table

function show() {
  app.replaceChildren(controls(), table(), plots());
  drawPlots();
  open();
}
function pick(label, key, values, all) {
  if (values.length < 2) return null;
  const options = [h("option", {value: ""}, all), ...values.map(v => h("option", {value: v, selected: v === state[key]}, v))];
  return h("select", {"aria-label": label, onchange: event => set({[key]: event.target.value})}, options);
}
const distinct = values => [...new Set(values.filter(Boolean))].sort();

function controls() {
  const all = board().rows, families = DATA.families.filter(name => all.some(row => row.family === name));
  const tabs = board().views.map(v => h("button", {
    role: "tab", "aria-selected": String(v === view()), onclick: () => set({view: v.name, sort: "", columns: [], x: "", y: ""}),
  }, v.name));
  const chips = families.map(name => h("button", {
    class: "chip", "data-family": name, "aria-pressed": String(state.family.has(name)),
    onclick: () => { state.family.has(name) ? state.family.delete(name) : state.family.add(name); set({}); },
  }, mark({family: name}), name));
  const boards = DATA.boards.length > 1 && h("select", {"aria-label": "Data set", onchange: event =>
    set({board: event.target.value, sort: "", columns: [], row: "", vs: "", x: "", y: "", kind: "", net: "", likelihood: "", family: new Set()})},
    DATA.boards.map(b => h("option", {value: b.title, selected: b === board()}, b.title)));
  const search = h("input", {type: "search", placeholder: "Search by name", "aria-label": "Search by name", value: state.q, oninput: event =>
    set({q: event.target.value}, () => { document.querySelector(".board").replaceWith(table()); drawPlots(); })});
  const kinds = board().kinds.length > 1 && h("select", {"aria-label": "Kind of likelihood", onchange: event => set({kind: event.target.value, sort: ""})},
    board().kinds.map(k => h("option", {value: k, selected: k === kind()}, `likelihood: ${k}`)));
  return h("div", {},
    h("div", {class: "bar"}, boards || h("h2", {}, board().title), search, pick("Net", "net", distinct(all.map(r => r.net)), "all nets"),
      pick("Likelihood", "likelihood", distinct(all.map(r => r.likelihood)), "all likelihoods"), kinds, sorter(), chooser()),
    h("div", {class: "bar legend", role: "group", "aria-label": "Families"}, chips),
    h("div", {class: "tabs", role: "tablist"}, tabs));
}

/** Where there are cards, and no heads to click. */
function sorter() {
  const [by, way] = order(), found = new Set([NAME, SEEDS_COLUMN, ...(view().name === "Cost" ? [MADE] : []), ...shown(), by]);
  const keys = [...found].map(id => [id, typeof id === "number" ? board().columns[id].key : id]);
  const option = ([id, key], up) => h("option", {value: `${key} ${up ? "up" : "down"}`, selected: id === by && (way > 0) === up}, `${key} ${up ? "upwards" : "downwards"}`);
  return h("select", {class: "sorter", "aria-label": "Sort by", onchange: event => set({sort: event.target.value})},
    keys.flatMap(key => [option(key, true), option(key, false)]));
}

function chooser() {
  const on = shown(), full = on.length >= DATA.most;
  const box = (c, number) => h("label", {}, h("input", {
    type: "checkbox", checked: on.includes(number), disabled: full && !on.includes(number), onchange: event => {
      const chosen = event.target.checked ? [...on, number] : on.filter(other => other !== number);
      set({columns: chosen.map(n => board().columns[n].key)});
      document.querySelector("details.columns").open = true;
    }}), ` ${c.head}`, c.unit && h("small", {}, ` ${c.unit}`));
  const groups = [...new Set(board().columns.map(c => c.view))].map(name => [
    h("h3", {}, name),
    board().columns.map((c, number) => c.view === name && ["", kind()].includes(c.kind) && box(c, number)),
  ]);
  return h("details", {class: "columns"}, h("summary", {}, "Columns"), h("div", {},
    h("small", {}, `${DATA.most} at most`),
    state.columns.length > 0 && h("button", {class: "chip", onclick: () => set({columns: []})}, "as the view has them"), groups));
}

function head(by, text, small, title, first) {
  const [sorted, way] = order(), current = sorted === by;
  const next = current ? (way > 0 ? "down" : "up") : first;
  const key = typeof by === "number" ? board().columns[by].key : by;
  return h("th", {scope: "col", title, style: by === NAME && `width:${share()}%`, "aria-sort": current && (way > 0 ? "ascending" : "descending")},
    h("button", {onclick: () => set({sort: `${key} ${next}`})}, text), small && h("small", {}, small));
}
/** What a table of few columns is wide at most, and which part of it names have: 300 px. */
const most = () => 420 + 150 * shown().length;
const share = () => Math.max(24, Math.round(30000 / most()));
const hasPublished = () => view().name === "Overview" && board().rows.some(row => row.published.length);

function table() {
  const numbers = shown(), list = rows(), kinded = numbers.find(n => board().columns[n].kind);
  const heads = numbers.map(n => board().columns[n]).map((c, i) =>
    head(numbers[i], `${c.head}${c.arrow && ` ${c.arrow}`}`, c.unit || "\u00a0", c.about, c.better > 0 ? "down" : "up"));
  const made = view().name === "Cost";
  const body = list.map(row => h("tr", {"data-row": row.id, onpointerenter: () => light(row.id), onpointerleave: () => light(null)},
    h("th", {scope: "row"}, h("div", {class: "name"},
      h("button", {title: [row.name, row.variant, row.options].filter(Boolean).join(" · "), onclick: () => set({row: row.id, vs: ""}, open)}, mark(row), h("span", {}, row.name.trim() || "(blank)")),
      row.older && h("span", {class: "old", title: row.older}, "older"),
      h("div", {class: "thumbs"}, Object.entries(row.pictures).map(([name, uri]) =>
        h("div", {class: "thumb"}, h("img", {src: uri, alt: `${name} of ${row.name}`, loading: "lazy", decoding: "async"})))))),
    h("td", {"data-label": "seeds", class: row.seeds.length === 1 ? "one" : null, title: row.seeds.length === 1 ? "one seed: how much another would differ is not known" : null},
      h("span", {}, row.seeds.length === 1 ? "1 seed" : String(row.seeds.length))),
    made && h("td", {"data-label": "made", title: row.commit}, h("span", {}, row.made || row.commit.slice(0, 7))),
    numbers.map(n => cell(row, n, n === kinded)),
    hasPublished() && h("td", {"data-label": "published", class: row.published.length ? null : "empty"}, row.published.map(([within, text]) =>
      h("span", {class: within ? "yes" : "no", title: text}, within ? "✓ within " : "✗ outside ")))));
  const protocols = numbers.map(n => [h("dt", {}, board().columns[n].head), h("dd", {}, board().columns[n].about)]);
  const published = hasPublished() ? list.flatMap(row => row.published.map(([, text, protocol]) => [h("dt", {}, `${row.name}, published`), h("dd", {}, `${text}: ${protocol}`)])) : [];
  return h("div", {class: "board"},
    h("table", {style: `max-width:${most()}px`}, h("thead", {}, h("tr", {}, head(NAME, "Name", `${list.length} of ${board().rows.length} rows`, "", "up"), head(SEEDS_COLUMN, "seeds", "\u00a0", "", "down"),
      made && head(MADE, "made", "or commit", "", "down"), heads, hasPublished() && h("th", {}, "published", h("small", {}, "within tolerance?")))), h("tbody", {}, body)),
    !list.length && h("div", {class: "none"}, "No row is left. ", h("button", {class: "chip", onclick: () => set({q: "", net: "", likelihood: "", family: new Set()})}, "Show all rows")),
    h("details", {class: "about"}, h("summary", {}, "Protocols", published.length ? " and published numbers" : ""), h("dl", {}, protocols, published)));
}
const told = c => [c.head, c.arrow, c.unit].filter(Boolean).join(" ");
function cell(row, n, first) {
  const c = board().columns[n], found = row.cells[n];
  if (!found) {
    const others = first ? row.kinds : [];
    if (!others.length || others.includes(kind())) return h("td", {class: "empty", "data-label": told(c)});
    return h("td", {class: "kinds", "data-label": told(c)}, h("button", {title: `another kind of likelihood, which does not compare: ${others.join("; ")}`, onclick: () => set({kind: others[0], sort: ""})}, DATA.kinds[others[0]]));
  }
  const [mean, half] = found[0].split(" ± ");
  const over = found[OVER] ? `95 % interval over ${found[OVER]}: ${found[LOW]} to ${found[HIGH]}` : `no interval: ${found[SEEDS]} seed${found[SEEDS] === 1 ? "" : "s"}`;
  const tied = found[BEST] ? "; no row is shown to be better" : "";
  return h("td", {class: found[BEST] ? "best" : null, "data-label": told(c), title: over + tied}, h("span", {}, mean, half && h("span", {class: "pm"}, ` ± ${half}`)));
}
function light(id) {
  for (const lit of document.querySelectorAll(".lit")) lit.classList.remove("lit");
  if (id !== null) for (const found of document.querySelectorAll("[data-row]")) if (found.dataset.row === id) found.classList.add("lit");
}

// --- Plots

const label = n => board().columns[n].head + (board().columns[n].unit && ` (${board().columns[n].unit})`);
const withUnit = (row, n) => `${board().columns[n].head}: ${row.cells[n][0]} ${board().columns[n].unit}`;
const forestColumn = () => typeof order()[0] === "number" ? order()[0] : shown()[0];
/** Logarithmic where all is positive, and the greatest is twenty times the least. */
const scale = values => Math.min(...values) > 0 && Math.max(...values) > 20 * Math.min(...values) ? "log" : "linear";
const colours = () => ({color: {domain: DATA.families, range: DATA.families.map((_, i) => `var(--f${i})`)}, symbol: {domain: DATA.families, range: SYMBOLS}});
const ends = (row, n) => [row.cells[n][LOW] ?? row.cells[n][MEAN], row.cells[n][HIGH] ?? row.cells[n][MEAN]];
const known = (row, ...numbers) => numbers.every(n => row.cells[n] && row.cells[n][MEAN] !== null);

function presets() {
  const cs = board().columns, first = name => cs.findIndex(c => c.name === name && (c.kind === "" || c.kind === kind()));
  const found = [], ranked = shown().find(n => cs[n].arrow && !["Cost"].includes(cs[n].view)), time = first("training_time");
  if (time >= 0 && ranked !== undefined) found.push(["Quality and cost", time, ranked]);
  for (const [x, y] of [["rate", "distortion"], ["kl", "recon"]]) {
    if (first(x) >= 0 && first(y) >= 0 && cs[first(y)].about.includes(";")) { found.push(["Rate and distortion", first(x), first(y)]); break; }
  }
  return found;
}
function axes() {
  const given = [column(state.x), column(state.y)];
  if (given.every(n => n >= 0)) return given;
  const all = presets(), wanted = all.find(([name]) => (name === "Rate and distortion") === (view().name === "Likelihood")) ?? all[0];
  return wanted ? wanted.slice(1) : shown().length > 1 ? shown().slice(0, 2) : [];
}
function plots() {
  return h("div", {class: "plots"}, h("figure", {id: "forest"}), h("figure", {id: "scatter"}),
    view().name === "Overview" && board().ranks && h("figure", {id: "ranks"}));
}
function drawPlots() {
  const list = rows();
  drawForest(document.getElementById("forest"), list);
  drawScatter(document.getElementById("scatter"), list);
  const ranks = document.getElementById("ranks");
  if (ranks) drawRanks(ranks);
}
const width = figure => Math.max(240, figure.clientWidth - 34);
const short = text => text.length > 22 ? `${text.slice(0, 21)}…` : text;

/** A line a row: where its number lies, and how surely. */
function lines(figure, list, center, low, high, options, marks) {
  const names = new Map(board().rows.map(row => [row.id, short(row.name)]));
  const drawing = Plot.plot({
    width: width(figure), height: 60 + 15 * list.length, marginLeft: 158, marginRight: 16, marginTop: 26, marginBottom: 34, ...colours(),
    x: {grid: true, ...options}, y: {domain: list.map(row => row.id), label: null, tickFormat: id => names.get(id), tickSize: 0},
    marks: [...marks,
      Plot.link(list, {x1: low, x2: high, y1: "id", y2: "id", stroke: "family", strokeWidth: 1.6}),
      Plot.dot(list, {x: center, y: "id", fill: "family", stroke: "family", symbol: "family", r: 3.2})],
  });
  return dressed(drawing, list);
}
function drawForest(figure, list) {
  const n = forestColumn();
  const some = n === undefined ? [] : list.filter(row => known(row, n));
  if (some.length < 2) return figure.replaceChildren(h("p", {class: "muted"}, "Too few rows for a plot of intervals."));
  const c = board().columns[n], tied = some.filter(row => row.cells[n][BEST]);
  const sorted = [...some].sort((a, b) => (c.better > 0 ? -1 : 1) * (a.cells[n][MEAN] - b.cells[n][MEAN]));
  const spans = sorted.flatMap(row => ends(row, n)), type = scale(sorted.map(row => row.cells[n][MEAN]));
  const options = {label: `${label(n)} ${c.arrow}`, type, ...(type === "log" && Math.min(...spans) <= 0 && {domain: [Math.min(...sorted.map(r => r.cells[n][MEAN])) / 1.5, Math.max(...spans)], clamp: true})};
  const marks = tied.length && c.arrow ? [Plot.ruleY(tied, {y: "id", stroke: "var(--lit)", strokeWidth: 13})] : [];
  figure.replaceChildren(h("h3", {}, `How sure: ${c.head}`),
    h("p", {class: "muted"}, "95 % intervals; a dot without a line has none.", marks.length ? " Marked rows: no row is shown to be better." : ""),
    h("div", {class: "draw"}, lines(figure, sorted, row => row.cells[n][MEAN], row => ends(row, n)[0], row => ends(row, n)[1], options, marks)));
}
function drawRanks(figure) {
  const {means, critical, over} = board().ranks, at = new Map(board().ranks.rows.map((index, i) => [board().rows[index].id, means[i]]));
  const listed = new Set(rows().map(row => row.id));
  const list = board().rows.filter(row => at.has(row.id) && listed.has(row.id)).sort((a, b) => at.get(a.id) - at.get(b.id));
  if (!list.length) return figure.replaceChildren();
  const best = Math.min(...means), some = best + critical < Math.max(...means);
  figure.replaceChildren(h("h3", {}, "Mean rank"),
    h("p", {class: "muted"}, `Over ${over.join("; ")}, of the rows that have all of them; 1 is the best. ${some ? "Rows left of the dashed line are" : "No row is"} ${some ? "not " : ""}told from the first: the critical difference is ${critical.toFixed(1)} (Nemenyi; it takes the metrics for independent, which they are not quite).`),
    h("div", {class: "draw"}, lines(figure, list, row => at.get(row.id), row => at.get(row.id), row => at.get(row.id), {label: "mean rank"},
      some ? [Plot.ruleX([best + critical], {stroke: "currentColor", strokeDasharray: "4 3"})] : [])));
}
function drawScatter(figure, list) {
  const [x, y] = axes();
  if (x === undefined) return figure.replaceChildren();
  const some = list.filter(row => known(row, x, y)), cs = board().columns;
  const options = selected => cs.map((c, n) => ["", kind()].includes(c.kind) && h("option", {value: c.key, selected: n === selected}, c.head));
  const choose = (key, selected) => h("select", {"aria-label": `${key} axis`, onchange: event => set({x: cs[x].key, y: cs[y].key, [key]: event.target.value}, drawPlots)}, options(selected));
  const named = presets().find(([, a, b]) => a === x && b === y)?.[0];
  const title = h("h3", {}, named ?? "Two columns");
  const tools = h("div", {class: "bar"}, presets().map(([name, a, b]) => h("button", {class: "chip", "aria-pressed": String(name === named), onclick: () => set({x: cs[a].key, y: cs[b].key}, drawPlots)}, name)));
  const pickers = h("div", {class: "bar"}, choose("y", y), h("span", {class: "muted"}, "against"), choose("x", x));
  if (some.length < 2) return figure.replaceChildren(title, tools, pickers, h("p", {class: "muted"}, "Too few rows have both numbers."));
  const means = n => some.map(row => row.cells[n][MEAN]);
  const type = {x: scale(means(x)), y: scale(means(y))}, away = [x, y].map(n => Math.min(...means(n)));
  const end = (n, which, log) => row => { const at = ends(row, n)[which]; return log && at <= 0 ? away[n === x ? 0 : 1] : at; };
  const span = n => { const all = some.flatMap(row => [0, 1].map(which => end(n, which, type[n === x ? "x" : "y"] === "log")(row))); return [Math.min(...all), Math.max(...all)]; };
  const guides = named === "Rate and distortion" && type.x === "linear" && type.y === "linear" ? sums(means(x), means(y)) : [];
  const drawing = Plot.plot({
    width: width(figure), height: 430, marginLeft: 62, marginRight: 20, marginBottom: 40, marginTop: 26, inset: 14, ...colours(),
    x: {label: `${label(x)}`, type: type.x, grid: true, domain: span(x)}, y: {label: `${label(y)} ${cs[y].arrow}`, type: type.y, grid: true, domain: span(y)},
    marks: [
      Plot.link(guides, {x1: d => d[0], y1: d => d[1], x2: d => d[2], y2: d => d[3], stroke: "currentColor", strokeOpacity: .45, strokeDasharray: "1 4", clip: true}),
      cs[x].view === "Cost" ? null : Plot.link(some, {x1: end(x, 0, type.x === "log"), x2: end(x, 1, type.x === "log"), y1: row => row.cells[y][MEAN], y2: row => row.cells[y][MEAN], stroke: "family", strokeOpacity: .7}),
      Plot.link(some, {y1: end(y, 0, type.y === "log"), y2: end(y, 1, type.y === "log"), x1: row => row.cells[x][MEAN], x2: row => row.cells[x][MEAN], stroke: "family", strokeOpacity: .7}),
      Plot.dot(some, {x: row => row.cells[x][MEAN], y: row => row.cells[y][MEAN], fill: "family", stroke: "family", symbol: "family", r: 4})],
  });
  const caption = named === "Rate and distortion" ? "Down and to the left is better. Along a dotted line rate + distortion, and so the ELBO, is the same."
    : [x, y].every(n => cs[n].better) ? `${cs[y].better > 0 ? "Up" : "Down"} and to the ${cs[x].better > 0 ? "right" : "left"} is better; what nothing beats in both is labelled first.` : "Labels where there is room; hover for the others.";
  const draw = h("div", {class: "draw"}, drawing);
  figure.replaceChildren(title, h("p", {class: "muted"}, caption), tools, pickers, draw);
  dressed(drawing, some, [x, y]);
  const ways = named === "Rate and distortion" ? [-1, -1] : [cs[x].better, cs[y].better];
  labels(drawing, some, front(some, x, y, ways));
}
/** Ends of lines along which x + y is the same, a hundred units beyond the points. */
function sums(xs, ys) {
  const [left, right] = [Math.min(...xs), Math.max(...xs)], [low, high] = [Math.min(...ys), Math.max(...ys)], pad = right - left + high - low;
  const step = (right - left + high - low) / 7 || 1;
  return Array.from({length: 8}, (_, i) => left + low + i * step).map(sum => [left - pad, sum - left + pad, right + pad, sum - right - pad]);
}
/** The rows in the order in which they are labelled: first those that no other beats both ways. */
function front(list, x, y, [right, up]) {
  if (!right || !up) return list;
  const badness = row => [-right * row.cells[x][MEAN], -up * row.cells[y][MEAN]];
  const beaten = row => list.some(other => { const [a, b] = badness(other), [c, d] = badness(row); return a <= c && b <= d && (a < c || b < d); });
  const first = new Set(list.filter(row => !beaten(row)));
  return [...list].sort((a, b) => first.has(b) - first.has(a));
}
/** Tooltips, hovering and opening: for what a drawing's dots stand for. */
function dressed(drawing, list, numbers = [forestColumn()]) {
  const svg = drawing.matches("svg") ? drawing : drawing.querySelector("svg");
  for (const dot of svg.querySelectorAll("[aria-label=dot] > *")) {
    const row = list[dot.__data__];
    dot.dataset.row = row.id;
    dot.addEventListener("pointerenter", event => { light(row.id); hint(row, numbers, event); });
    dot.addEventListener("pointerleave", () => { light(null); tip.hidden = true; });
    dot.addEventListener("click", () => { tip.hidden = true; set({row: row.id, vs: ""}, open); });
  }
  return drawing;
}
function hint(row, numbers, event) {
  const lines = numbers.filter(n => row.cells[n]).map(n => h("div", {}, withUnit(row, n)));
  tip.replaceChildren(h("strong", {}, row.name), h("div", {class: "muted"}, `${row.family}, ${row.seeds.length} seed${row.seeds.length === 1 ? "" : "s"}`), ...lines,
    ...(row.pictures.samples ? [h("img", {src: row.pictures.samples, alt: ""})] : []));
  tip.hidden = false;
  const left = event.clientX + 14 + tip.offsetWidth > innerWidth ? event.clientX - 14 - tip.offsetWidth : event.clientX + 14;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 4))}px`;
}
/** Write names beside points, as far as they cover neither a point, nor a name, nor the frame. */
function labels(svg, list, wanted) {
  svg = svg.matches("svg") ? svg : svg.querySelector("svg");
  const frame = svg.viewBox.baseVal, dots = new Map([...svg.querySelectorAll("[aria-label=dot] > *")].map(dot => [dot.dataset.row, dot]));
  const at = dot => { const {e, f} = dot.transform.baseVal.consolidate().matrix; return [e, f]; };
  const taken = [...dots.values()].map(at).map(([x, y]) => [x - 5, y - 5, x + 5, y + 5]);
  const meets = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
  for (const row of wanted) {
    const [x, y] = at(dots.get(row.id)), text = document.createElementNS(svg.namespaceURI, "text");
    text.textContent = short(row.name);
    text.setAttribute("class", "label");
    text.setAttribute("text-anchor", "start");
    svg.append(text);
    const wide = text.getComputedTextLength();
    const spots = [[x + 8, y + 4], [x - 8 - wide, y + 4], [x - wide / 2, y - 9], [x - wide / 2, y + 17]];
    const free = spots.find(([left, base]) => {
      const box = [left - 1, base - 11, left + wide + 1, base + 4];
      return box[0] > 62 && box[2] < frame.width - 4 && box[1] > 22 && box[3] < frame.height - 40 && !taken.some(other => meets(box, other));
    });
    if (!free) { text.remove(); continue; }
    text.setAttribute("x", free[0]); text.setAttribute("y", free[1]);
    taken.push([free[0] - 1, free[1] - 11, free[0] + wide + 1, free[1] + 4]);
  }
}

// --- An opened row, and a second one beside it

/** A URL's path as one word of a shell, whatever bytes it stands for. */
function word(url) {
  try { return `'${decodeURIComponent(url).replaceAll("'", "'\\''")}'`; }
  catch { return `$'${url.replaceAll("%", "\\x")}'`; } // bytes that are no text
}

function open() {
  const row = board().rows.find(r => r.id === state.row), other = board().rows.find(r => r.id === state.vs);
  if (!row) { if (dialog.open) dialog.close(); return; }
  const second = h("select", {"aria-label": "Compare with", onchange: event => set({vs: event.target.value}, open)},
    h("option", {value: ""}, "compare with …"), [...board().rows].filter(r => r !== row).sort((a, b) => a.name.localeCompare(b.name)).map(r => h("option", {value: r.id, selected: r === other}, r.name)));
  const pair = other ? [row, other] : [row];
  const picture = (r, kind, title) => h("div", {}, h("h3", {}, title, " ", h("a", {href: r.files[kind]}, "whole file")), h("img", {src: r.pictures[kind], alt: `${kind} of ${r.name}`}));
  const pictures = kind => pair.map(r => r.pictures[kind] ? picture(r, kind, `${kind} of ${r.name}`) : h("div", {class: "muted"}, `no ${kind}`));
  const alone = other ? null : ["samples", "reconstructions"].filter(k => row.pictures[k]).map(k => picture(row, k, k));
  const numbers = board().columns.map((c, n) => pair.some(r => r.cells[n]) && h("tr", {}, h("th", {scope: "row", title: c.about}, `${c.key} ${c.arrow} ${c.unit}`),
    pair.map(r => h("td", {class: r.cells[n]?.[BEST] ? "best" : null}, r.cells[n]?.[0] ?? ""))));
  const about = r => h("div", {}, h("h3", {}, r.name), h("dl", {},
    [["variant", `${r.variant} ${r.options}`], ["family", r.family], ...r.facts, ...(r.older ? [["older", r.older]] : []), ...r.published.map(([, text]) => ["published", text])].map(([key, text]) => [h("dt", {}, key), h("dd", {}, text)]),
    h("dt", {}, "seeds"), h("dd", {}, r.seeds.map(([seed, url], i) => [i ? ", " : "", h("a", {href: url, title: "config.yaml"}, String(seed))]))),
    h("pre", {}, r.config));
  dialog.replaceChildren(
    h("header", {}, h("h2", {}, row.name), second, h("button", {class: "closer", onclick: () => dialog.close()}, "Close")),
    h("div", {class: "sides pictures"}, alone ?? [pictures("samples"), pictures("reconstructions")]),
    h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "metric"), pair.map(r => h("th", {}, r.name)))), h("tbody", {}, numbers)),
    other && h("p", {class: "muted"}, `Differences with their intervals, in words, from the folder that this board was made in: run.py compare ${word(row.folder)} ${word(other.folder)}`),
    h("div", {class: "sides"}, pair.map(about)));
  if (!dialog.open) dialog.showModal();
}
dialog.addEventListener("close", () => { if (state.row) set({row: "", vs: ""}, () => {}); });
dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
addEventListener("hashchange", () => { read(); show(); });
let waiting, wide = innerWidth;
addEventListener("resize", () => { if (innerWidth !== wide) { wide = innerWidth; clearTimeout(waiting); waiting = setTimeout(drawPlots, 150); } });

read();
show();
