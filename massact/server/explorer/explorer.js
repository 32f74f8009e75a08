"use strict";
// The explorer's page: what the query API's views tell, drawn by plotly.js. Every text of a store is set as text.

const $ = (id) => document.getElementById(id);
const CHOICES = ["experiment", "model", "trait", "position", "setting", "metric", "x", "label", "layer"];
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"];
const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "cross", "x"], SIGNS = "●■▲◆✚✖";
const MOST_DRAWN = 2000, GRID = 64, FIRST_RESPONSES = 10;
const NAMES = { delta: "delta", trait: "trait score", coherence: "coherence", coefficient: "coefficient", relative_strength: "relative strength" };

const state = { metric: "delta", x: "coefficient", rule: "", floor: null, hidden: new Set(), run: "", pin: "" };
let data = null, place = null, ties = new Map(), where = new Map(), opened = null, pinned = null, usual = "", frame = 0, settling = 0, pointed = "";

// asking

async function ask(view, given = {}) {
  const told = Object.entries(given).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const answer = await fetch(`v1/view/${view}?${new URLSearchParams(told)}`);
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(content.detail || `the server answers ${answer.status}`);
  return content;
}

function say(text, failed = false) {
  $("status").textContent = text;
  $("status").classList.toggle("failed", failed);
}

const failed = (error) => say(error.message, true);

// the address holds the choice

function readAddress() {
  const told = new URLSearchParams(location.hash.slice(1));
  for (const name of [...CHOICES, "run", "pin"]) state[name] = told.get(name) ?? (name === "metric" ? "delta" : name === "x" ? "coefficient" : "");
  if (state.x !== "relative_strength") state.x = "coefficient";
  state.rule = told.get("rule") ?? "";
  const floor = Number(told.get("floor") ?? NaN);
  state.floor = floor >= 0 && floor <= 100 ? floor : null;
  state.hidden = new Set(told.getAll("without"));
}

function writeAddress() {
  const told = new URLSearchParams();
  for (const name of [...CHOICES, "rule", "floor", "run", "pin"]) if (state[name] !== "" && state[name] !== null) told.set(name, state[name]);
  for (const label of state.hidden) told.append("without", label);
  history.replaceState(null, "", `#${told}`);
  try { localStorage.setItem("massact.experiment", state.experiment); } catch { /* a browser may forbid it */ }
}

// evaluations: a label's columns and an index into them

const sign = () => (place.direction === "negative" ? -1 : 1);

function value(columns, i, name) {
  if (name === "trait") return columns.delta[i] === null || place.baseline_trait_mean === null ? null : columns.delta[i] + place.baseline_trait_mean;
  return (columns[name] ?? columns.metrics[name])?.[i] ?? null;
}

/** What the floor is of, on its scale of 0 to 100. */
const measure = (columns, i) => (columns.measure ?? columns.coherence)[i];

/** The floor in the unit of what it is of. */
function limit() {
  const { metric, limit: declared, is_most, value: at } = data.floor;
  return metric === "coherence" ? String(state.floor) : `${metric} ${is_most ? "≤" : "≥"} ${short(declared * (is_most ? (100 - state.floor) / (100 - at) : state.floor / at))}`;
}

function isBetter(columns, i, others, j) {
  const lead = sign() * (columns.delta[i] - others.delta[j]);
  if (lead !== 0) return lead > 0;
  const size = Math.abs(columns.coefficient[i]) - Math.abs(others.coefficient[j]);
  if (size !== 0) return size < 0;
  if (columns.layer[i] !== others.layer[j]) return columns.layer[i] < others.layer[j];
  return columns !== others && !columns.taken.includes(i) && others.taken.includes(j);
}

/** The index of a label's best evaluation at the floor; -1: none. */
function best(columns, floor = state.floor, layer = null) {
  let found = -1;
  for (let i = 0; i < columns.delta.length; i++) {
    if (measure(columns, i) === null || measure(columns, i) < floor || columns.delta[i] === null) continue;
    if (layer !== null && columns.layer[i] !== layer) continue;
    if (found < 0 || isBetter(columns, i, columns, found)) found = i;
  }
  return found;
}

/** The layer at which a label's curve is drawn: that of its best, else of its most coherent evaluation. */
function curveLayer(columns) {
  const found = best(columns);
  if (found >= 0) return columns.layer[found];
  let most = 0;
  columns.coherence.forEach((coherence, i) => { if (coherence > (columns.coherence[most] ?? -1)) most = i; });
  return columns.layer[most];
}

function along(columns, layer) {
  return [...columns.layer.keys()].filter((i) => columns.layer[i] === layer).sort((a, b) => columns.coefficient[a] - columns.coefficient[b]);
}

function ranked() {
  const bests = labels().map((label) => [label, best(place.labels[label])]).filter(([, i]) => i >= 0);
  return bests.sort(([a, i], [b, j]) => (isBetter(place.labels[a], i, place.labels[b], j) ? -1 : isBetter(place.labels[b], j, place.labels[a], i) ? 1 : a < b ? -1 : 1));
}

const labels = () => Object.keys(place.labels);
const shown = () => labels().filter((label) => !state.hidden.has(label));
const figure = (number, digits = 1) => (number === null || number === undefined ? "–" : number.toFixed(digits));
const signed = (number) => (number === null || number === undefined ? "–" : (number < 0 ? "−" : "+") + Math.abs(number).toFixed(1));
const short = (number) => (number === null || number === undefined ? "–" : String(+number.toPrecision(4)));

function standings() {
  const told = ties.get(tieKey());
  if (!Array.isArray(told)) return null;
  return told.filter((one) => one.floor <= state.floor).at(-1)?.standings ?? null;
}

const tieKey = () => [place.model, place.trait, place.position, place.setting, place.baseline_trait_mean, state.rule, data.version].join("\n");

async function askTies() {
  const key = tieKey();
  if (ties.has(key)) return;
  ties.set(key, "asked");
  try {
    const given = { experiment: data.experiment, floor: state.rule, model: place.model, trait: place.trait, position: place.position, setting: place.setting, baseline: place.baseline_trait_mean };
    ties.set(key, (await ask("standings", given)).places);
  } catch (error) {
    ties.delete(key);
    failed(error);
  }
  if (tieKey() === key) tell();
}

// choosing

function fill(select, values, chosen, texts = values) {
  const same = select.options.length === values.length && values.every((one, i) => select.options[i].value === String(one));
  if (!same) select.replaceChildren(...values.map((one, i) => new Option(texts[i], one)));
  select.value = values.map(String).includes(String(chosen)) ? chosen : values[0];
  return select.value;
}

const distinct = (values) => [...new Set(values)];

function choose() {
  let left = data.places;
  for (const name of ["model", "trait", "position"]) {
    state[name] = fill($(name), distinct(left.map((one) => one[name])), state[name]);
    left = left.filter((one) => one[name] === state[name]);
  }
  const settings = left.map((one) => `${one.setting}/${one.baseline_trait_mean}`);
  const texts = left.map((one) => `${(one.setting || "").slice(0, 8)}, ${one.judge}, baseline ${figure(one.baseline_trait_mean)}`);
  const chosen = fill($("setting"), settings, state.setting, texts);
  $("setting-choice").hidden = settings.length < 2;
  state.setting = settings.length < 2 ? "" : chosen;
  place = left[settings.indexOf(chosen)];
  where = new Map();
  for (const [label, columns] of Object.entries(place.labels)) columns.run_id.forEach((run, i) => where.set(run, [label, i]));
  state.hidden = new Set([...state.hidden].filter((label) => label in place.labels));
  const metrics = distinct(Object.values(place.labels).flatMap((columns) => Object.keys(columns.metrics)));
  state.metric = fill($("metric"), [...Object.keys(NAMES).slice(0, 3), ...metrics], state.metric, [...Object.values(NAMES).slice(0, 3), ...metrics]);
  $("x").value = state.x;
  const rules = ["coherence>=", ...metrics.flatMap((name) => [`${name}<=`, `${name}>=`])];
  fill($("rule"), rules, `${data.floor.metric}${data.floor.is_most ? "<=" : ">="}`, rules.map((one) => one.replace("<=", " ≤").replace(">=", " ≥")));
  $("floor").value = state.floor;
}

/** A floor of something else: a metric's begins at its median at this place. */
async function changeRule() {
  const [metric, way] = [$("rule").value.slice(0, -2), $("rule").value.slice(-2)];
  const values = Object.values(place.labels).flatMap((columns) => columns.metrics[metric] ?? []).filter((one) => one > 0).sort((a, b) => a - b);
  if (metric !== "coherence" && !values.length) { choose(); throw new Error(`no evaluation here has a ${metric} above 0`); }
  state.rule = metric === "coherence" ? (usual === "coherence" ? "" : "68") : `${metric}${way}${Number(values[values.length >> 1].toPrecision(3))}`;
  state.floor = null;
  await load();
}

// drawing

function theme() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["ink", "quiet", "paper", "line", "low", "high"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

function layout(more) {
  const ink = theme();
  const axis = { gridcolor: ink.line, zerolinecolor: ink.line, linecolor: ink.line, tickcolor: ink.line, automargin: true };
  const base = { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink.ink, size: 12, family: "system-ui, sans-serif" }, margin: { l: 50, r: 12, t: 8, b: 44 }, showlegend: false, hovermode: "closest", dragmode: false, uirevision: "kept" };
  for (const name of Object.keys(more).filter((one) => /^[xy]axis/.test(one))) more[name] = { ...axis, ...more[name] };
  return { ...base, ...more };
}

const look = (label) => { const n = labels().indexOf(label); return { color: COLOURS[n % 6], symbol: SYMBOLS[Math.floor(n / 6) % 6] }; };
const hover = (label, columns, i) => `${escaped(label)}<br>layer ${columns.layer[i]}, coefficient ${short(columns.coefficient[i])}<br>delta ${signed(columns.delta[i])}, coherence ${figure(columns.coherence[i])}`;
const escaped = (text) => text.replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);

function series(label, indices, x, y, more = {}) {
  const columns = place.labels[label];
  return {
    type: "scatter", mode: "lines+markers", name: escaped(label),
    x: indices.map((i) => value(columns, i, x)), y: indices.map((i) => value(columns, i, y)),
    customdata: indices.map((i) => columns.run_id[i]), text: indices.map((i) => hover(label, columns, i)), hovertemplate: "%{text}<extra></extra>",
    line: { color: look(label).color, width: 1.6 }, marker: { color: look(label).color, symbol: look(label).symbol, size: 6 }, ...more,
  };
}

/** All others of a place; of very many those that would hide one another once. */
function others() {
  const points = shown().flatMap((label) => [...place.labels[label].run_id.keys()].map((i) => [label, i]));
  if (points.length <= MOST_DRAWN) return [points, points.length];
  const kept = new Map();
  for (const [label, i] of points) {
    const columns = place.labels[label];
    kept.set(`${label} ${Math.round((columns.coherence[i] ?? 0) / 100 * GRID)} ${Math.round((value(columns, i, state.metric) ?? 0) / 100 * GRID)}`, [label, i]);
  }
  return [[...kept.values()], points.length];
}

const marks = (points) => ({
  type: "scatter", mode: "markers", marker: { size: 3.5, color: theme().quiet, opacity: 0.45 }, customdata: points.map(([label, i]) => place.labels[label].run_id[i]),
  x: points.map(([label, i]) => place.labels[label].coherence[i]), y: points.map(([label, i]) => value(place.labels[label], i, state.metric)),
  text: points.map(([label, i]) => hover(label, place.labels[label], i)), hovertemplate: "%{text}<extra></extra>",
});

function drawTradeOff() {
  const [points, all] = others();
  const curves = shown().map((label) => series(label, along(place.labels[label], curveLayer(place.labels[label])), "coherence", state.metric));
  $("thinned").textContent = points.length < all ? `${points.length} of ${all} evaluations are drawn beside the curves: those that would lie on others are left out` : "";
  Plotly.react("tradeoff", [marks(points), ...curves], layout({ xaxis: { title: { text: "coherence" } }, yaxis: { title: { text: (NAMES[state.metric] ?? state.metric) } } }), CONFIG);
}

const CONFIG = { responsive: true, displayModeBar: false };

function drawMap() {
  const ink = theme(), columns = place.labels[state.label];
  const layers = distinct(columns.layer).sort((a, b) => a - b), steps = distinct(columns[state.x]).filter((one) => one !== null).sort((a, b) => a - b);
  const row = new Map(layers.map((one, i) => [one, i])), column = new Map(steps.map((one, i) => [one, i]));
  const empty = () => layers.map(() => steps.map(() => null));
  const whole = empty(), runs = empty(), texts = empty();
  columns.run_id.forEach((run, i) => {
    const [r, c] = [row.get(columns.layer[i]), column.get(columns[state.x][i])];
    if (c === undefined) return;
    [whole[r][c], runs[r][c], texts[r][c]] = [value(columns, i, state.metric), run, hover(state.label, columns, i)];
  });
  let [low, high] = [0, 0];
  for (const one of columns.run_id.keys()) { const z = value(columns, one, state.metric) ?? 0; low = Math.min(low, z); high = Math.max(high, z); }
  const size = Math.max(-low, high, 1);
  const colours = low < -size / 10 ? { colorscale: [[0, "#D55E00"], [0.5, ink.low], [1, ink.high]], zmin: -size, zmax: size } : { colorscale: [[0, ink.low], [1, ink.high]], zmin: 0, zmax: size };
  const heat = { type: "heatmap", x: steps.map(short), y: layers.map(String), customdata: runs, text: texts, hovertemplate: "%{text}<extra></extra>", xgap: 1, ygap: 1, ...colours };
  const traces = [{ ...heat, z: whole, colorbar: { thickness: 10, outlinewidth: 0, title: { text: (NAMES[state.metric] ?? state.metric) } } }];
  Plotly.react("map", traces, layout({ xaxis: { type: "category", title: { text: NAMES[state.x] }, categoryarray: steps.map(short) }, yaxis: { type: "category", title: { text: "layer" } } }), CONFIG);
}

function drawCurve() {
  const layer = Number(state.layer);
  const drawn = shown().map((label) => [label, along(place.labels[label], layer)]).filter(([, indices]) => indices.length);
  const wide = (label) => ({ line: { color: look(label).color, width: label === state.label ? 3 : 1.3 } });
  const traces = [
    ...drawn.map(([label, indices]) => series(label, indices, state.x, state.metric, wide(label))),
    ...drawn.map(([label, indices]) => series(label, indices, state.x, "coherence", { yaxis: "y2", ...wide(label) })),
  ];
  Plotly.react("curve", traces, layout({
    xaxis: { title: { text: NAMES[state.x] }, anchor: "y2" }, yaxis: { title: { text: (NAMES[state.metric] ?? state.metric) }, domain: [0.46, 1] }, yaxis2: { title: { text: "coherence" }, domain: [0, 0.38] },
  }), CONFIG);
}

// over the charts: the floor, what it leaves out, the bests, what is opened and what the pointer is on. A step of the
// slider moves these alone; the charts themselves stay.

function over(chart, shapes) {
  let svg = $(chart).querySelector("svg.over");
  if (!svg) { svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"); svg.setAttribute("class", "over"); $(chart).append(svg); }
  svg.replaceChildren(...shapes.filter(Boolean).map(([kind, given]) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
    for (const [name, one] of Object.entries(given)) made.setAttribute(name, one);
    return made;
  }));
}

/** Where a chart draws a value, in pixels; a category by its place, also where it looks like a number. */
const pixel = (axis, one) => axis._offset + (axis.type === "category" ? axis.l2p(axis._categories.indexOf(one)) : axis.d2p(one));

function ring(chart, [label, i], look, y = "yaxis") {
  const full = $(chart)._fullLayout, columns = place.labels[label];
  const names = { tradeoff: ["coherence", state.metric], map: [state.x, "layer"], curve: [state.x, y === "yaxis" ? state.metric : "coherence"] }[chart];
  const [a, b] = names.map((name) => value(columns, i, name));
  if (a === null || b === null) return null;
  const at = chart === "map" ? [short(a), String(b)] : [a, b];
  return ["circle", { cx: pixel(full.xaxis, at[0]), cy: pixel(full[y], at[1]), "data-run": columns.run_id[i], ...look }];
}

function dashes(chart, axis, floor) {
  const full = $(chart)._fullLayout, other = axis === "xaxis" ? full.yaxis : full.xaxis, at = pixel(full[axis], floor);
  if (at < full[axis]._offset || at > full[axis]._offset + full[axis]._length) return null;
  const [from, to] = [other._offset, other._offset + other._length];
  return ["line", { class: "dashes", ...(axis === "xaxis" ? { x1: at, x2: at, y1: from, y2: to } : { x1: from, x2: to, y1: at, y2: at }) }];
}

function belowFloor() {
  const full = $("map")._fullLayout, columns = place.labels[state.label], [w, h] = [full.xaxis, full.yaxis].map((axis) => Math.abs(axis.l2p(1) - axis.l2p(0)));
  const paths = [...columns.run_id.keys()].filter((i) => !(measure(columns, i) >= state.floor) && columns[state.x][i] !== null)
    .map((i) => `M${pixel(full.xaxis, short(columns[state.x][i])) - w / 2} ${pixel(full.yaxis, String(columns.layer[i])) - h / 2}h${w}v${h}h${-w}z`);
  return ["path", { class: "below", d: paths.join("") }];
}

function mark() {
  const floor = (chart, axis) => (data.floor.metric === "coherence" ? dashes(chart, axis, state.floor) : null);
  const order = ranked().filter(([label]) => !state.hidden.has(label));
  const wanted = [[state.run, { class: "opened", r: 9 }], [pointed, { class: "pointed", r: 7 }]].filter(([run]) => where.has(run)).map(([run, look]) => [where.get(run), look]);
  const isShown = ([label]) => !state.hidden.has(label), here = ([label, i]) => place.labels[label].layer[i] === Number(state.layer);
  const rings = (chart, admits, y) => wanted.filter(([one]) => admits(one)).map(([one, look]) => ring(chart, one, look, y));
  over("tradeoff", [floor("tradeoff", "xaxis"), ...order.map((one, n) => ring("tradeoff", one, { class: n ? "best" : "best first", r: n ? 6 : 7.5, fill: look(one[0]).color })), ...rings("tradeoff", isShown)]);
  const found = best(place.labels[state.label]);
  over("map", [belowFloor(), found >= 0 ? ring("map", [state.label, found], { class: "star", r: 5 }) : null, ...rings("map", ([label]) => label === state.label)]);
  over("curve", [floor("curve", "yaxis2"), ...rings("curve", (one) => isShown(one) && here(one)), ...rings("curve", (one) => isShown(one) && here(one), "yaxis2")]);
}

function listen() {
  for (const chart of ["tradeoff", "map", "curve"]) {
    const runOf = (event) => event.points.map((point) => point.customdata).find((run) => typeof run === "string");
    const point = (run) => { if (pointed !== run) { pointed = run; mark(); } };
    $(chart).on("plotly_hover", (event) => point(runOf(event) ?? ""));
    $(chart).on("plotly_unhover", () => point(""));
    $(chart).on("plotly_afterplot", () => { if ($("curve")._fullLayout && $("map")._fullLayout) mark(); });
    $(chart).on("plotly_click", (event) => { const run = runOf(event); if (run) open(run).catch(failed); });
  }
}

// what is said about it

function cell(row, text, name = "") {
  const made = row.insertCell();
  made.textContent = text;
  made.className = name;
  return made;
}

function button(text, name, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.setAttribute("aria-label", name);
  made.addEventListener("click", act);
  return made;
}

function tell() {
  const order = ranked(), standing = standings();
  const [winner] = order;
  let text = `Nothing is at or above the floor ${limit()}.`;
  if (winner) {
    const [label, i] = winner, columns = place.labels[label], { metric } = data.floor;
    text = `Best at floor ${limit()}: ${label}, layer ${columns.layer[i]}, coefficient ${short(columns.coefficient[i])}: delta ${signed(columns.delta[i])}, coherence ${figure(columns.coherence[i])}${metric === "coherence" ? "" : `, ${metric} ${short(value(columns, i, metric))}`}.`;
    const tied = standing && Object.keys(standing).filter((one) => standing[one] === "tied");
    if (tied) text += Object.keys(standing).length === 0 ? " The store does not tell what is tied with it." : tied.length ? ` Tied with it: ${tied.join(", ")}.` : " Nothing is tied with it.";
  }
  if (place.n_failed) text += ` ${place.n_failed} failed.`;
  $("verdict").textContent = text;
  const left = labels().filter((label) => !order.some(([one]) => one === label)).map((label) => [label, -1]);
  const active = document.activeElement?.closest?.("#bests button, #bests input")?.getAttribute("aria-label");
  const body = $("bests").tBodies[0], now = JSON.stringify([order, left, standing, [...state.hidden], tieKey()]);
  if (tell.last === now) return;
  tell.last = now;
  body.replaceChildren(...[...order, ...left].map(([label, i], n) => {
    const row = document.createElement("tr"), columns = place.labels[label];
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: !state.hidden.has(label) });
    box.setAttribute("aria-label", `show ${label}`);
    box.addEventListener("change", () => { state.hidden[box.checked ? "delete" : "add"](label); draw(); });
    cell(row, "").append(box);
    const name = cell(row, label), mark = document.createElement("span");
    mark.textContent = SIGNS[SYMBOLS.indexOf(look(label).symbol)];
    mark.style.color = look(label).color;
    name.prepend(mark, " ");
    if (i >= 0) name.append(" ", button("open", `open the best of ${label}`, () => open(columns.run_id[i]).catch(failed)));
    const status = i < 0 ? "gap" : (standing?.[label] ?? (n === 0 ? "best" : ""));
    cell(row, status);
    row.className = n === 0 && i >= 0 ? "winner" : status;
    for (const figures of [signed(columns.delta[i]), figure(columns.coherence[i]), columns.layer[i] ?? "", i < 0 ? "" : short(columns.coefficient[i])]) cell(row, figures, "n");
    return row;
  }));
  if (active) body.querySelector(`[aria-label="${CSS.escape(active)}"]`)?.focus();
}

function draw() {
  $("floor-shown").textContent = limit();
  const winner = ranked().find(([label]) => !state.hidden.has(label));
  state.label = fill($("label"), labels(), state.label || winner?.[0]);
  const layers = distinct(Object.values(place.labels).flatMap((columns) => distinct(columns.layer))).sort((a, b) => a - b);
  state.layer = fill($("layer"), layers, state.layer === "" ? curveLayer(place.labels[state.label]) : state.layer);
  $("charts").hidden = false;
  tell();
  drawTradeOff();
  drawMap();
  drawCurve();
  mark();
  performance.mark("massact.drawn");
  writeAddress();
}

/** A step of the floor: what is said and marked changes at once, the curves once it rests. */
function move() {
  $("floor-shown").textContent = limit();
  tell();
  mark();
  clearTimeout(settling);
  settling = setTimeout(draw, 200);
}

// one evaluation

async function open(run, focus = true) {
  const found = await ask("evaluation", { run_id: run });
  opened = found;
  state.run = run;
  const facts = found.facts, title = [facts.model, facts.trait, facts.label, facts.position, `layer ${facts.layer}`, `coefficient ${short(facts.coefficient)}`];
  $("evaluation-title").textContent = title.join(" · ");
  $("evaluation-scores").textContent = `delta ${signed(facts.delta)}, trait ${figure(facts.trait_mean)}, coherence ${figure(facts.coherence_mean)}; ${facts.n_scored} of ${facts.n_scored + facts.n_unscored} responses scored by ${facts.judge}${facts.same_as ? `; taken over from ${facts.same_as}` : ""}`;
  $("coefficient").value = facts.coefficient;
  const pages = document.body.dataset.runs;
  $("run-link").hidden = !pages;
  if (pages) $("run-link").href = pages + encodeURIComponent(run);
  $("identity").replaceChildren(...Object.entries(flat(found)).map(([name, one]) => line([name, one])));
  $("evaluation").hidden = false;
  differ();
  if (where.has(run)) { const [label, i] = where.get(run); state.label = label; state.layer = place.labels[label].layer[i]; draw(); }
  if (focus) { $("evaluation").focus({ preventScroll: true }); $("evaluation").scrollIntoView({ behavior: "smooth", block: "nearest" }); }
  const [steered, unsteered] = await Promise.all([said(found.responses_run), said(found.baseline_run)]);
  if (state.run === run) tellResponses(steered, unsteered);
}

function line(texts) {
  const row = document.createElement("tr");
  texts.forEach((text, i) => { const made = document.createElement(i ? "td" : "th"); made.textContent = text; row.append(made); });
  return row;
}

function flat(found) {
  const told = {};
  const walk = (one, name) => {
    if (one !== null && typeof one === "object") for (const [key, inner] of Object.entries(one)) walk(inner, name ? `${name}.${key}` : key);
    else told[name] = String(one);
  };
  walk({ run_id: found.run_id, ...found.facts, cell: found.cell ?? {} }, "");
  return told;
}

function differ() {
  const isPair = pinned && opened && pinned.run_id !== opened.run_id;
  $("pin").textContent = pinned ? (isPair ? "compare with this one instead" : "open another to compare") : "compare with another";
  $("differences").hidden = !isPair;
  if (!isPair) return;
  const [a, b] = [flat(pinned), flat(opened)], table = document.createElement("table");
  table.append(line(["field", "the one kept", "this one"]));
  for (const name of distinct([...Object.keys(a), ...Object.keys(b)])) if (a[name] !== b[name]) table.append(line([name, a[name] ?? "–", b[name] ?? "–"]));
  const head = document.createElement("h3");
  head.textContent = "Where the two differ";
  $("differences").replaceChildren(head, table);
}

/** The responses of a run by its table in MLflow; null: it kept none, or is not to be read. */
async function said(run) {
  if (!run) return null;
  const answer = await fetch(`../get-artifact?${new URLSearchParams({ path: "responses.json", run_uuid: run })}`);
  if (!answer.ok) return null;
  const table = await answer.json();
  return table.data.map((values) => Object.fromEntries(table.columns.map((name, i) => [name, values[i]])));
}

// what does not show, or turns the direction of text, is shown as an escape
const visible = (text) => String(text).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);

function block(name, response) {
  const made = document.createElement("div"), head = document.createElement("p"), text = document.createElement("p");
  head.className = "quiet";
  head.textContent = response ? name + ("trait_score" in response ? `: trait ${figure(response.trait_score)}, coherence ${figure(response.coherence_score)}${response.unscored_because ? ` (${response.unscored_because})` : ""}` : "") : `${name}: not kept`;
  made.append(head);
  if (response?.thinking) made.append(Object.assign(document.createElement("p"), { className: "said thought", textContent: visible(response.thinking) }));
  text.className = "said";
  text.textContent = response ? visible(response.response) || "(nothing)" : "";
  if (response) made.append(text);
  return made;
}

function tellResponses(steered, unsteered, most = FIRST_RESPONSES) {
  const box = $("responses");
  box.replaceChildren();
  if (!steered) { box.textContent = "This evaluation kept no responses, or they may not be read here."; return; }
  const before = new Map((unsteered ?? []).map((one) => [one.question, one]));
  for (const response of steered.slice(0, most)) {
    const asked = document.createElement("p"), pair = document.createElement("div");
    asked.className = "asked";
    asked.textContent = visible(response.question);
    pair.className = "pair";
    pair.append(block("unsteered", before.get(response.question)), block("steered", response));
    box.append(asked, pair);
  }
  if (steered.length > most) box.append(button(`all ${steered.length}`, "show all responses", () => tellResponses(steered, unsteered, Infinity)));
  if (!$("question").value) $("question").value = steered[0]?.question ?? "";
}

/** The next evaluation along the coefficient, or at the next layer the one with the nearest coefficient. */
function step(byLayer, way) {
  const found = where.get(state.run);
  if (!found) return;
  const [label, i] = found, columns = place.labels[label];
  if (!byLayer) {
    const indices = along(columns, columns.layer[i]), next = indices[indices.indexOf(i) + way];
    if (next !== undefined) open(columns.run_id[next], false).catch(failed);
    return;
  }
  const layers = distinct(columns.layer).sort((a, b) => a - b), layer = layers[layers.indexOf(columns.layer[i]) + way];
  const there = along(columns, layer).sort((a, b) => Math.abs(columns.coefficient[a] - columns.coefficient[i]) - Math.abs(columns.coefficient[b] - columns.coefficient[i]));
  if (there.length) open(columns.run_id[there[0]], false).catch(failed);
}

// trying it

async function tryIt() {
  const address = $("address").value.replace(/\/+$/, "").replace(/\/v1$/, "");
  const chat = async (model) => {
    const body = { model, messages: [{ role: "user", content: $("question").value }], temperature: 0, max_tokens: opened.facts.max_new_tokens ?? 200 };
    const answer = await fetch(`${address}/v1/chat/completions`, { method: "POST", headers: { authorization: `Bearer ${$("key").value}`, "content-type": "application/json" }, body: JSON.stringify(body) });
    const content = await answer.json();
    if (!answer.ok) throw new Error(content.error?.message ?? `the model server answers ${answer.status}`);
    return { response: content.choices[0].message.content };
  };
  const steered = `${opened.run_id}@coefficient=${Number($("coefficient").value)}`;
  try {
    $("answers").replaceChildren(document.createTextNode("…"));
    const [a, b] = await Promise.all([chat(opened.facts.model), chat(steered)]);
    $("answers").replaceChildren(block("unsteered", a), block(`steered, coefficient ${$("coefficient").value}`, b));
    for (const name of ["key", "address"]) sessionStorage.setItem(`massact.${name} ${opened.facts.model}`, $(name).value);
  } catch (error) {
    $("answers").textContent = `${error.message}: does massact serve-model run at ${address}, with that key?`;
  }
}

// beginning, and going on while a sweep runs

async function load(version) {
  const began = performance.now();
  const found = await ask("explore", { experiment: state.experiment, floor: state.rule, version });
  const seconds = (performance.now() - began) / 1000;
  if (found.places) {
    data = found;
    if (!state.rule) usual = found.floor.metric;
    state.floor ??= Math.round(found.floor.value);
    say(found.places.length ? "" : "There is no evaluation yet: this page fills as the first ones end.");
    $("notes").hidden = !found.notes.length;
    $("notes").querySelector("ul").replaceChildren(...found.notes.map((note) => Object.assign(document.createElement("li"), { textContent: note })));
    await new Promise((done) => (window.Plotly ? done() : document.addEventListener("DOMContentLoaded", done)));
    if (!window.Plotly) throw new Error("plotly.js is not there: pip install 'massact[explore]' where the server runs");
    if (found.places.length) { choose(); draw(); if (!listen.done) { listen(); listen.done = true; } askTies(); }
  }
  return seconds;
}

async function follow() {
  let pause = 4;
  for (;;) {
    await new Promise((done) => setTimeout(done, pause * 1000));
    if (document.hidden || !data) continue;
    try { pause = Math.max(4, 20 * (await load(data.version))); } catch (error) { failed(error); pause = 30; }
  }
}

async function begin() {
  readAddress();
  try { state.experiment ||= localStorage.getItem("massact.experiment") ?? ""; } catch { /* likewise */ }
  const early = state.experiment ? load().catch(() => null) : null;
  const { experiments } = await ask("experiments");
  if (!experiments.length) { say("The store holds no evaluation that you may read."); return; }
  const chosen = fill($("experiment"), experiments, state.experiment);
  if (!early || chosen !== state.experiment || (await early) === null) { state.experiment = chosen; await load(); }
  if (state.pin) pinned = await ask("evaluation", { run_id: state.pin });
  if (state.run) await open(state.run, false);
  follow();
}

function changed(name, act) {
  $(name).addEventListener("change", () => { state[name] = $(name).value; try { act(); } catch (error) { failed(error); } });
}

function again() { state.label = state.layer = ""; choose(); draw(); askTies(); }

for (const name of ["model", "trait", "position", "setting"]) changed(name, again);
for (const name of ["metric", "x", "layer"]) changed(name, draw);
changed("label", () => { state.layer = ""; draw(); });
changed("experiment", () => { Object.assign(state, { model: "", trait: "", position: "", setting: "", label: "", layer: "", rule: "", floor: null }); load().catch(failed); });
$("rule").addEventListener("change", () => changeRule().catch(failed));
$("floor").addEventListener("input", () => { state.floor = Number($("floor").value); cancelAnimationFrame(frame); frame = requestAnimationFrame(move); });
$("choices").addEventListener("submit", (event) => event.preventDefault());
$("ask").addEventListener("submit", (event) => { event.preventDefault(); tryIt(); });
for (const [name, byLayer, way] of [["weaker", false, -1], ["stronger", false, 1], ["lower", true, -1], ["higher", true, 1]]) $(name).addEventListener("click", () => step(byLayer, way));
$("pin").addEventListener("click", () => { pinned = opened; state.pin = opened.run_id; differ(); writeAddress(); });
$("close").addEventListener("click", () => { $("evaluation").hidden = true; state.run = state.pin = ""; pinned = opened = null; draw(); });
$("try").addEventListener("toggle", () => {
  const kept = (name) => sessionStorage.getItem(`massact.${name} ${opened.facts.model}`);
  $("key").value ||= kept("key") ?? "";
  $("address").value ||= kept("address") ?? document.body.dataset.models ?? "http://127.0.0.1:8080";
  $("start").textContent = `massact serve-model --experiment FILE.yaml --model ${opened.facts.model}`;
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (place) draw(); });
addEventListener("hashchange", () => { const now = () => `${state.experiment} ${state.rule}`, before = now(); readAddress(); state.floor ??= Math.round(data.floor.value); (now() !== before ? load() : (choose(), draw(), askTies(), state.run ? open(state.run, false) : Promise.resolve())).catch(failed); });
begin().catch(failed);
