// The console: asks /console/api, /models/…/predict and /metrics, and shows what they answer. Text from data is only ever text of a node.
// All times are those of the server, so a wrong clock of this machine changes no age.

const EVERY_MS = 1000;
const LATENCY_WINDOW_MS = 30_000;
const SPARK_POINTS = 90;
const KEY = "braid-key";

const state = {
  project: null, group: null, id: "", feature: null, explanation: null, points: [], batchAlone: null, historyEnd: null,
  span: 21_600, turn: 0, snapshots: [], sparks: new Map(),
};

// ---------------------------------------------------------------- nodes

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function node(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function shape(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Sets the text of a node; where it replaces another text, the node is highlighted. */
function setText(target, text, highlight = false) {
  if (target.textContent === text) return;
  const replaced = target.textContent !== "";
  target.textContent = text;
  if (!highlight || !replaced) return;
  target.classList.remove("changed");
  void target.offsetWidth; // begins the animation again
  target.classList.add("changed");
}

// ---------------------------------------------------------------- words and numbers

function valueText(value) {
  if (value === null || value === undefined) return "–";
  if (Array.isArray(value)) return value.map(valueText).join(", ");
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (size !== 0 && size < 1e-6) return value.toExponential(2);
  return value.toLocaleString("en", size < 1 ? { maximumSignificantDigits: 3 } : { maximumFractionDigits: size < 1000 ? 3 : 2 });
}

function ageText(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60);
  if (minutes < 60) return minutes < 10 ? `${minutes} min ${seconds % 60} s` : `${minutes} min`;
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

function clockText(ms, nowMs, digits = 8) {
  const text = new Date(ms).toISOString();
  const clock = text.slice(11, 11 + digits);
  return text.slice(0, 10) === new Date(nowMs).toISOString().slice(0, 10) ? clock : `${text.slice(0, 10)} ${clock}`;
}

const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const milliseconds = (seconds) => (seconds === null ? "–" : seconds >= 1 ? "> 1 s" : `${(seconds * 1000).toFixed(1)} ms`);

// ---------------------------------------------------------------- requests

class Refusal extends Error {
  constructor(status, cause, cure) {
    super([cause, cure].filter(Boolean).join(" "));
    this.status = status;
  }
}

async function post(path, body) {
  const key = sessionStorage.getItem(KEY);
  const headers = { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { method: "POST", headers, body: typeof body === "string" ? body : JSON.stringify(body) });
  const answer = await response.json().catch(() => ({}));
  if (response.status === 401) {
    if (await askForKey()) return post(path, body);
    throw new Refusal(401, "This deployment needs its key.", "Give it by the button Key above.");
  }
  if (!response.ok) throw new Refusal(response.status, answer.error ?? `The service answers ${response.status}.`, answer.cure);
  return answer;
}

let keyAsked = null, keyDeclined = false;

/** Whether the user has entered a key; one who closes the dialog is not asked again before the button is pressed. */
function askForKey() {
  if (keyDeclined) return false;
  keyAsked ??= new Promise((resolve) => {
    $("key-button").hidden = false;
    $("key-dialog").showModal();
    $("key-dialog").addEventListener("close", () => {
      const key = $("key").value;
      if (key) sessionStorage.setItem(KEY, key);
      $("key").value = "";
      [keyAsked, keyDeclined] = [null, !key];
      resolve(Boolean(key));
    }, { once: true });
  });
  return keyAsked;
}

// ---------------------------------------------------------------- entity

const declaredGroup = () => state.project.groups.find((group) => group.name === state.group);

function chooseGroup(name) {
  const group = state.project.groups.find((declared) => declared.name === name) ?? state.project.groups[0];
  if (state.group !== group.name) state.feature = null;
  state.group = group.name;
  $("group").value = group.name;
  $("entity-label").textContent = group.entity;
  $("entity-hint").textContent = state.id ? "" : `${group.description} Enter an id (${group.entity}) to see how its features come about.`;
}

function chooseEntity(id) {
  Object.assign(state, { id, explanation: null, points: [], historyEnd: null });
  $("entity-id").value = id;
  $("entity-body").hidden = true;
  $("features").tBodies[0].replaceChildren();
  remember();
}

function remember() {
  const parts = { group: state.group, id: state.id, feature: state.feature };
  history.replaceState(null, "", `#${new URLSearchParams(Object.entries(parts).filter(([, value]) => value))}`);
}

async function followEntity() {
  const { group, id } = state;
  if (!id) return;
  let explanation;
  try {
    explanation = await post("api/entity", { group, id });
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (group === state.group && id === state.id) refuseEntity(error.message);
    return;
  }
  if (group !== state.group || id !== state.id) return; // another was chosen meanwhile
  state.explanation = explanation;
  $("entity-id").removeAttribute("aria-invalid");
  $("entity-hint").textContent = "";
  $("entity-body").hidden = false;
  if (!explanation.features.some((feature) => feature.name === state.feature)) state.feature = explanation.features[0].name;
  showProvenance(explanation);
  showFeatures(explanation);
  showTiles(explanation);
  await followFeature(explanation);
}

function refuseEntity(message) {
  $("entity-hint").textContent = message;
  $("entity-id").setAttribute("aria-invalid", "true");
  $("entity-body").hidden = true;
}

function showProvenance(explanation) {
  const { as_of_ms: now, batch_end_ms: end, newest_event_ms: newest } = explanation;
  const words = [];
  if (!explanation.known) words.push("No event of this entity is known: its values are those of an entity without events.");
  else if (explanation.in_view) {
    const tiles = explanation.tiles_merged ? `and ${plural(explanation.tiles_merged, "speed tile")} since then` : "alone; no event since then";
    words.push(`Merged from the batch view up to ${clockText(end, now)} UTC (${ageText(now - end)} ago) ${tiles}.`);
  } else words.push(`Merged from ${plural(explanation.tiles_merged, "speed tile")} alone: the entity is not in the batch view.`);
  if (newest !== null) words.push(`The newest event is ${ageText(now - newest)} old.`);
  const marked = explanation.features.filter((feature) => feature.degraded).length;
  words.push(marked ? `${marked} of ${plural(explanation.features.length, "value")} may not be exact:` : "All values are exact.");
  setText($("provenance"), words.join(" "));
  const reasons = explanation.reasons.map(({ reason, features }) => `${reason} (${features.join(", ")})`);
  const list = $("reasons");
  list.hidden = !reasons.length;
  if (list.dataset.text !== reasons.join()) list.replaceChildren(...reasons.map((text) => node("li", {}, text)));
  list.dataset.text = reasons.join();
}

const COLUMNS = [["merged", "Merged"], ["batch_part", "Batch part"], ["speed_part", "Speed part"], ["batch_alone", "Batch alone"]];

function showFeatures(explanation) {
  const body = $("features").tBodies[0];
  if (body.rows.length !== explanation.features.length) body.replaceChildren(...explanation.features.map(featureRow));
  explanation.features.forEach((feature, index) => {
    const row = body.rows[index];
    row.classList.toggle("selected", feature.name === state.feature);
    row.querySelector(".name").setAttribute("aria-pressed", String(feature.name === state.feature));
    row.querySelector(".mark").hidden = !feature.degraded;
    const timed = declaredGroup().features.find(({ name }) => name === feature.name)?.rule.startsWith("since"); // changes by itself
    COLUMNS.forEach(([field], place) => {
      const cell = row.cells[place + 1], value = feature[field];
      setText(cell.firstChild, valueText(value), !timed);
      cell.title = value === null ? "no value" : String(value);
      cell.classList.toggle("none", value === null);
      cell.classList.toggle("list", Array.isArray(value));
    });
  });
}

function featureRow({ name }) {
  const declared = declaredGroup().features.find((feature) => feature.name === name);
  const choose = node("button", { type: "button", class: "name", title: "Plot this feature" }, name);
  choose.addEventListener("click", () => chooseFeature(name));
  const mark = node("span", { class: "mark" }, "may not be exact");
  mark.hidden = true;
  const head = node("th", { scope: "row" }, choose, mark);
  if (declared) {
    const length = declared.window?.replace(/(\d+)/, "$1 ");
    const window = length ? `last ${length}${declared.exact_tail ? ", to the millisecond" : ""}` : "all time";
    const rule = [declared.rule, declared.where && `where ${declared.where}`].filter(Boolean).join(" ");
    head.append(node("br"), node("small", { title: rule }, `${declared.description || rule} · ${window}`.replace(". ·", " ·")));
  }
  const cells = COLUMNS.map(([field, label]) => node("td", { class: `number ${field}`, "data-label": label }, node("span")));
  return node("tr", {}, head, ...cells);
}

function showTiles({ tiles, tile_count: count, as_of_ms: now, features }) {
  const place = features.findIndex((feature) => feature.name === state.feature);
  setText($("tile-count"), count > tiles.length ? `${tiles.length} newest of ${count}` : String(count));
  setText($("tile-feature"), state.feature);
  const rows = tiles.toReversed().map((tile) => [
    clockText(tile.first_ms, now, 12), clockText(tile.last_ms, now, 12), ageText(now - tile.last_ms), tile.merged ? "yes" : "no",
    valueText(tile.values[place]),
  ]);
  const body = $("tiles").tBodies[0];
  while (body.rows.length > rows.length) body.deleteRow(-1);
  while (body.rows.length < rows.length) {
    body.append(node("tr", {}, ...["", "", "number", "", "number"].map((kind) => node("td", { class: kind }))));
  }
  rows.forEach((texts, index) => texts.forEach((text, cell) => setText(body.rows[index].cells[cell], text)));
}

// ---------------------------------------------------------------- plot of one feature

function chooseFeature(name) {
  Object.assign(state, { feature: name, points: [], historyEnd: null });
  remember();
  if (state.explanation) {
    showFeatures(state.explanation);
    showTiles(state.explanation);
    followFeature(state.explanation).catch(report);
  }
}

async function followFeature(explanation) {
  const { group, id, feature, span } = state;
  const current = explanation.features.find(({ name }) => name === feature);
  const edge = `${feature} ${span} ${explanation.batch_end_ms}`;
  if (state.historyEnd !== edge) {
    state.historyEnd = edge;
    const since = Math.max(0, explanation.as_of_ms - span * 1000);
    const past = await post("api/history", { group, id, feature, since, at: explanation.as_of_ms });
    if (state.historyEnd !== edge || id !== state.id || group !== state.group) return;
    state.points = past.points;
    state.batchAlone = past.batch_alone;
  }
  const step = (span * 1000) / 600, points = state.points;
  // Of the live points so many are kept as the plot has pixels.
  if (points.length > 121 && points.at(-1).at_ms - points.at(-2).at_ms < step) points.pop();
  if (explanation.as_of_ms > (points.at(-1)?.at_ms ?? 0)) {
    points.push({ at_ms: explanation.as_of_ms, value: current.merged, degraded: current.degraded });
  }
  state.points = points.filter((point) => point.at_ms >= explanation.as_of_ms - span * 1000);
  drawPlot(explanation);
}

function niceStep(span, count) {
  const rough = span / count, power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
}

const TIME_STEPS = [10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 10_800, 21_600].map((seconds) => seconds * 1000);

function drawPlot(explanation) {
  const area = $("plot-area"), now = explanation.as_of_ms;
  setText($("plot-title"), `${state.feature}, merged beside batch alone`);
  const numeric = state.points.filter((point) => typeof point.value === "number");
  if (numeric.length < 2) {
    area.replaceChildren(node("p", { class: "hint" }, "There is no number to plot."));
    return setText($("plot-readout"), "");
  }
  const width = Math.max(280, area.clientWidth), height = 230;
  const alone = typeof state.batchAlone === "number" ? state.batchAlone : null;
  const narrow = width < 480; // then the words beside the lines stand below the plot alone
  const box = { left: 46, right: width - (narrow ? 20 : 118), top: 8, bottom: height - 40 };
  const values = numeric.map((point) => point.value).concat(alone === null ? [] : [alone]);
  let low = Math.min(...values), high = Math.max(...values);
  if (low >= 0 && low < high * 0.6) low = 0;
  if (high === low) [low, high] = [Math.min(0, low), Math.max(0, high) || Number(low === 0)];
  const tick = niceStep(high - low, 4);
  [low, high] = [Math.floor(low / tick) * tick, Math.ceil(high / tick) * tick];
  const from = Math.min(state.points[0].at_ms, now - 60_000);
  const x = (ms) => box.left + ((ms - from) / (now - from)) * (box.right - box.left);
  const y = (value) => box.bottom - ((value - low) / (high - low)) * (box.bottom - box.top);

  const drawing = shape("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img" });
  const last = numeric.at(-1);
  drawing.append(shape("title", {}, `${state.feature}: merged ${valueText(last.value)}, batch alone ${valueText(alone)}`));
  for (let value = low; value <= high + tick / 2; value += tick) {
    drawing.append(
      shape("line", { class: "grid", x1: box.left, x2: box.right, y1: y(value), y2: y(value) }),
      shape("text", { x: box.left - 8, y: y(value) + 4, "text-anchor": "end" }, valueText(Number(value.toPrecision(10)))),
    );
  }
  const step = TIME_STEPS.find((ms) => (now - from) / ms <= (box.right - box.left) / 80) ?? TIME_STEPS.at(-1);
  for (let ms = Math.ceil(from / step) * step; ms <= now; ms += step) {
    if (x(ms) > box.right - 24) break; // there stands "now"
    drawing.append(shape("text", { x: x(ms), y: height - 6, "text-anchor": "middle" }, clockText(ms, ms, step < 60_000 ? 8 : 5)));
  }
  drawing.append(
    shape("text", { x: box.right, y: height - 6, "text-anchor": "middle" }, "now"),
    shape("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
  );
  for (const tile of explanation.tiles) {
    const start = Math.max(box.left, x(tile.first_ms));
    if (x(tile.last_ms) < box.left) continue;
    drawing.append(shape("rect", { class: tile.merged ? "tile" : "tile out", x: start, y: box.bottom + 5, height: 7, width: Math.max(2, x(tile.last_ms) - start) }));
  }
  if (alone !== null) drawing.append(shape("path", { class: "line batch", d: `M${box.left} ${y(alone)}H${box.right}` }));
  const whole = numeric.every((point) => Number.isInteger(point.value));
  const path = (points) => points.map((point, index) =>
    index === 0 ? `M${x(point.at_ms)} ${y(point.value)}` : whole ? `H${x(point.at_ms)}V${y(point.value)}` : `L${x(point.at_ms)} ${y(point.value)}`).join("");
  if (low === 0) drawing.append(shape("path", { class: "area", d: `${path(numeric)}V${box.bottom}H${x(numeric[0].at_ms)}Z` }));
  const degraded = numeric.filter((point) => point.degraded);
  if (degraded.length > 1) drawing.append(shape("path", { class: "line degraded", d: path(degraded) }));
  drawing.append(shape("path", { class: "line merged", d: path(numeric) }));

  if (!narrow) nameLines(drawing, box, { at: y(last.value), value: last.value }, alone === null ? null : { at: y(alone), value: alone });
  if (!narrow && explanation.tiles.length) drawing.append(shape("text", { x: box.right + 8, y: box.bottom + 13 }, "speed tiles"));

  const cursor = shape("line", { class: "cursor", y1: box.top, y2: box.bottom, visibility: "hidden" });
  drawing.append(cursor);
  area.replaceChildren(drawing);
  const end = explanation.batch_end_ms;
  const rest = [
    `Merged (line) ${valueText(last.value)}`, `batch alone (dashed) ${valueText(alone)}${end === null ? "" : `, as of ${ageText(now - end)} ago`}`,
    "marks below: speed tiles", "point at the plot to read a time",
  ].join(" · ");
  const read = (clientX) => {
    if (clientX === null) return setText($("plot-readout"), rest);
    const at = from + ((clientX - drawing.getBoundingClientRect().left - box.left) / (box.right - box.left)) * (now - from);
    const point = numeric.findLast((candidate) => candidate.at_ms <= at) ?? numeric[0];
    for (const side of ["x1", "x2"]) cursor.setAttribute(side, x(point.at_ms));
    cursor.setAttribute("visibility", "visible");
    setText($("plot-readout"), `${clockText(point.at_ms, now)} UTC (${ageText(now - point.at_ms)} ago): merged ${valueText(point.value)}, batch alone ${valueText(alone)}${point.degraded ? ", may not be exact" : ""}`);
  };
  drawing.addEventListener("pointermove", (event) => { state.pointer = event.clientX; read(event.clientX); });
  drawing.addEventListener("pointerleave", () => { state.pointer = null; cursor.setAttribute("visibility", "hidden"); read(null); });
  read(state.pointer ?? null);
}

/** Writes the names and values beside the ends of the two lines, with room between them and above the name of the tiles' marks. */
function nameLines(drawing, box, merged, alone) {
  let [mergedAt, aloneAt] = [merged.at + 4, (alone?.at ?? 0) + 4];
  if (alone && Math.abs(mergedAt - aloneAt) < 15) {
    const middle = (mergedAt + aloneAt) / 2, side = merged.value >= alone.value ? -7.5 : 7.5;
    [mergedAt, aloneAt] = [middle + side, middle - side];
  }
  const below = Math.max(0, Math.max(mergedAt, alone ? aloneAt : mergedAt) - (box.bottom - 2));
  [mergedAt, aloneAt] = [mergedAt - below, aloneAt - below];
  drawing.append(shape("text", { class: "merged-text", x: box.right + 8, y: mergedAt }, `merged ${valueText(merged.value)}`));
  if (alone) drawing.append(shape("text", { class: "batch-text", x: box.right + 8, y: aloneAt }, `batch alone ${valueText(alone.value)}`));
}

// ---------------------------------------------------------------- models

const declaredModel = () => state.project.models.find((model) => model.name === $("model").value);

function showForm() {
  const model = declaredModel(), form = $("model-form");
  $("answer").replaceChildren();
  if (!model) return form.replaceChildren();
  const fields = [...model.keys, ...model.request].map((field) => {
    const input = node("input", { name: field.name, autocomplete: "off", placeholder: field.type });
    input.required = field.required;
    if (field.type === "integer" || field.type === "decimal") input.inputMode = "decimal";
    if (field.default !== null) input.value = String(field.default);
    if (field.group !== null && field.group === state.group && state.id) input.value = state.id;
    return node("label", {}, `${field.name}${field.required ? "" : " (optional)"}`, input);
  });
  form.replaceChildren(...fields, node("button", { type: "submit" }, "Ask"));
}

/** The JSON text of a field's value: an integer of 64 bits is written digit by digit, because a number of JavaScript is shorter. */
function fieldJson(field, text) {
  if (field.group !== null || field.type === "text") return JSON.stringify(text);
  if (field.type === "integer" && /^-?\d+$/.test(text)) return BigInt(text).toString();
  if (field.type === "time" && !/^\d+$/.test(text)) return JSON.stringify(text);
  const number = Number(text);
  if (!Number.isFinite(number)) throw new Refusal(422, `${field.name} is not a number.`, `Its type is ${field.type}.`);
  return JSON.stringify(number);
}

async function askModel(event) {
  event.preventDefault();
  const model = declaredModel(), entered = new FormData($("model-form"));
  try {
    const texts = (fields) => fields.filter((field) => entered.get(field.name).trim() !== "").map((field) =>
      `${JSON.stringify(field.name)}:${fieldJson(field, entered.get(field.name).trim())}`);
    const body = `{${[...texts(model.keys), ...(model.request.length ? [`"context":{${texts(model.request).join()}}`] : [])].join()}}`;
    showAnswer(await post(`../models/${encodeURIComponent(model.name)}/predict`, body));
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    $("answer").replaceChildren(node("p", { class: "refusal" }, error.message));
  }
}

/** A bar as long as a probability. */
function shareBar(share) {
  const bar = shape("svg", { viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" });
  bar.append(shape("rect", { width: share * 100, height: 1 }));
  return node("div", { class: "bar" }, bar);
}

/** What was predicted: a probability with its bar, a number, or the likeliest class and the probability of each. */
function predictionNodes({ prediction, model }) {
  const about = node("span", {}, `${model.name} version ${model.version}`, node("br"), node("small", {}, `variant ${model.variant}`));
  const head = (text) => node("div", { class: "prediction" }, node("b", {}, text), about);
  if (typeof prediction === "number") {
    return declaredModel().objective === "binary" ? [head(prediction.toFixed(4)), shareBar(prediction)] : [head(valueText(prediction))];
  }
  const classes = Object.entries(prediction).sort(([, one], [, other]) => other - one);
  return [head(classes[0][0]), ...classes.flatMap(([name, share]) => [node("p", { class: "hint" }, `${name} ${share.toFixed(4)}`), shareBar(share)])];
}

function showAnswer(answer) {
  const { provenance } = answer, missing = new Set(provenance.missing), marked = new Set(provenance.degraded_features);
  const now = Date.parse(provenance.as_of);
  const words = [
    provenance.batch_end ? `batch view up to ${ageText(now - Date.parse(provenance.batch_end))} ago` : "no batch view",
    plural(provenance.tiles_merged, "speed tile"),
    provenance.newest_event ? `newest event ${ageText(now - Date.parse(provenance.newest_event))} old` : "no event",
  ].join(", ");
  const rows = Object.entries(answer.features_used).map(([name, value]) => {
    const note = missing.has(name) ? " (default)" : "";
    const head = node("td", {}, node("span", { class: "name" }, name), note);
    if (marked.has(name)) head.append(node("span", { class: "mark" }, "may not be exact"));
    return node("tr", {}, head, node("td", { class: "number", title: String(value) }, valueText(value)));
  });
  $("answer").replaceChildren(
    ...predictionNodes(answer),
    node("p", { class: "hint" }, `${words}. ${provenance.degraded ? `May not be exact: ${provenance.degraded_reasons.join("; ")}.` : "Exact."}`),
    node("div", { class: "scroll" }, node("table", {}, node("tbody", {}, ...rows))),
  );
}

function showModelState({ models }) {
  const chosen = models.find((model) => model.name === $("model").value), target = $("model-state");
  if (!chosen) return target.replaceChildren(node("p", { class: "hint" }, state.project.models.length ? "No state is known." : "The project declares no model."));
  const rows = chosen.variants.flatMap((variant) => [
    node("span", {}, variant.name), node("span", {}, chosen.experiment ? `${Math.round(variant.share * 100)} %` : ""),
    node("span", {}, variant.version ? `version ${variant.version}` : "none"),
    ...(variant.fault ? [node("span", { class: "fault" }, variant.fault)] : []),
  ]);
  const experiment = chosen.experiment ? [node("p", { class: "hint" }, `Experiment ${chosen.experiment}${chosen.shadow ? ", shadowed" : ""}`)] : [];
  const declared = declaredModel();
  const about = node("p", { class: "hint" }, `Predicts: ${declared.label}.${declared.budget_ms ? ` Budget ${declared.budget_ms} ms.` : ""}`);
  const shown = node("div", {}, about, ...experiment, node("div", { class: "state" }, ...rows));
  if (target.textContent !== shown.textContent) target.replaceChildren(shown);
}

// ---------------------------------------------------------------- freshness, lag and latency

function gauge(key, title, text, note, series, late = false) {
  let shown = $("gauges").querySelector(`[data-key="${CSS.escape(key)}"]`);
  if (!shown) {
    const drawing = shape("svg", { viewBox: `0 0 ${SPARK_POINTS - 1} 30`, preserveAspectRatio: "none", "aria-hidden": "true" });
    shown = node("div", { class: "gauge", "data-key": key }, node("span", {}, title), node("b"), node("small"), drawing);
    $("gauges").append(shown);
  }
  const [, big, small, drawing] = shown.children;
  setText(big, text);
  setText(small, note);
  big.classList.toggle("late", late);
  const lines = series.map((value, index) => {
    const name = `${key} ${index}`, values = [...(state.sparks.get(name) ?? []), value].slice(-SPARK_POINTS);
    state.sparks.set(name, values);
    return values;
  });
  const top = Math.max(...lines.flat().filter((value) => value !== null), 1e-9) * 1.1;
  drawing.replaceChildren(...lines.map((values, index) => {
    let pen = "M";
    const d = values.map((value, place) => {
      if (value === null) { pen = "M"; return ""; }
      const piece = `${pen}${(place / Math.max(1, values.length - 1)) * (SPARK_POINTS - 1)} ${29 - (value / top) * 28}`;
      pen = "L";
      return piece;
    }).join("");
    return shape("path", { class: index ? "spark second" : "spark", d });
  }));
}

function showStatus(status) {
  const now = status.now_ms;
  for (const group of status.groups) {
    const age = group.newest_event_ms === null ? null : now - group.newest_event_ms;
    const published = group.batch_end_ms === null ? "no batch view is published"
      : `batch view up to ${ageText(now - group.batch_end_ms)} ago, ${group.entities.toLocaleString("en")} entities`;
    gauge(`group ${group.name}`, `Newest event of ${group.name}`, age === null ? "none" : `${ageText(age)} old`, published, [age],
      age !== null && age > group.max_age_seconds * 1000);
  }
  if (status.stream) {
    const { lag, lag_seconds: behind, rows_per_second: rate, written_at_ms: written } = status.stream;
    const silent = now - (written ?? 0) > 15_000;
    const note = silent ? `the speed layer has been silent for ${ageText(now - (written ?? 0))}`
      : [behind === null ? null : `${behind.toFixed(1)} s behind`, rate === null ? null : `${Math.round(rate).toLocaleString("en")} events/s`].filter(Boolean).join(", ");
    gauge("stream", "Lag of the stream", lag === null ? "not known" : plural(lag, "message"), note, [lag], silent);
  }
  showModelState(status);
  const champions = status.models.map((model) => `${model.name} ${model.variants[0].version ?? "without a champion"}`);
  setText($("summary"), [status.fault || plural(status.groups.length, "group"), ...champions].join(" · "));
}

/** Endpoint → its buckets, as [upper bound in seconds, cumulative count]. */
function latencyBuckets(text) {
  const buckets = new Map();
  for (const [, labels, count] of text.matchAll(/^braid_answer_seconds_bucket\{([^}]*)\} (\S+)/gm)) {
    const endpoint = labels.match(/endpoint="([^"]*)"/)?.[1], bound = Number(labels.match(/le="([^"]*)"/)?.[1].replace("+Inf", "Infinity"));
    if (!buckets.has(endpoint)) buckets.set(endpoint, []);
    buckets.get(endpoint).push([bound, Number(count)]);
  }
  for (const entries of buckets.values()) entries.sort(([a], [b]) => a - b);
  return buckets;
}

/** A quantile by the buckets, as histogram_quantile of Prometheus; Infinity above the last bound. */
function quantile(buckets, share) {
  const rank = share * buckets.at(-1)[1];
  let [lower, before] = [0, 0];
  for (const [bound, count] of buckets) {
    if (count >= rank) return bound === Infinity ? Infinity : lower + ((bound - lower) * (rank - before)) / Math.max(1e-9, count - before);
    [lower, before] = [bound, count];
  }
  return Infinity;
}

async function followLatency() {
  const response = await fetch("../metrics");
  if (!response.ok) return;
  const at = performance.now(), buckets = latencyBuckets(await response.text());
  state.snapshots = [...state.snapshots.filter((snapshot) => at - snapshot.at <= LATENCY_WINDOW_MS), { at, buckets }];
  const first = state.snapshots[0];
  for (const [endpoint, entries] of buckets) {
    const earlier = new Map(first.buckets.get(endpoint) ?? []);
    const recent = entries.map(([bound, count]) => [bound, count - (earlier.get(bound) ?? 0)]);
    const requests = recent.at(-1)[1], seconds = (at - first.at) / 1000;
    if (requests <= 0 || seconds === 0) gauge(`latency ${endpoint}`, `Latency of ${endpoint}`, "–", "no request in the last 30 s", [null, null]);
    else {
      const [half, most] = [quantile(recent, 0.5), quantile(recent, 0.99)];
      gauge(`latency ${endpoint}`, `Latency of ${endpoint}`, `${milliseconds(half)}, p99 ${milliseconds(most)}`,
        `median and 99th percentile by buckets, ${(requests / seconds).toFixed(1)} requests/s in the last 30 s`,
        [most, half].map((value) => (value === Infinity ? null : value)));
    }
  }
}

// ---------------------------------------------------------------- the page

function report(error) {
  $("problem").hidden = false;
  setText($("problem"), error instanceof Refusal ? error.message : `Serving does not answer (${error.message}). The page asks again.`);
}

async function turn() {
  if (!document.hidden) {
    const asked = [followEntity()];
    if (state.turn++ % 2 === 0) asked.push(post("api/status", {}).then(showStatus).then(followLatency));
    const failure = (await Promise.allSettled(asked)).find((result) => result.status === "rejected");
    if (failure) report(failure.reason);
    else $("problem").hidden = true;
  }
  setTimeout(turn, EVERY_MS);
}

function readAddress() {
  const address = new URLSearchParams(location.hash.slice(1));
  state.id = address.get("id") ?? "";
  chooseGroup(address.get("group"));
  chooseEntity(state.id);
  state.feature = address.get("feature");
  remember();
}

async function start() {
  try {
    state.project = await post("api/project", {});
  } catch (error) {
    report(error);
    return setTimeout(start, EVERY_MS);
  }
  const options = (declared) => declared.map(({ name }) => node("option", { value: name }, name));
  $("group").append(...options(state.project.groups));
  $("model").append(...options(state.project.models));
  $("model-choice").hidden = state.project.models.length < 2;
  readAddress();
  showForm();
  $("entity-form").addEventListener("submit", (event) => {
    event.preventDefault();
    chooseGroup($("group").value);
    chooseEntity($("entity-id").value.trim());
    showForm();
    followEntity().catch(report);
  });
  $("group").addEventListener("change", () => { state.id = ""; chooseGroup($("group").value); chooseEntity(""); });
  $("span").addEventListener("change", () => {
    Object.assign(state, { span: Number($("span").value), points: [], historyEnd: null });
    if (state.explanation) followFeature(state.explanation).catch(report);
  });
  $("model").addEventListener("change", showForm);
  $("model-form").addEventListener("submit", (event) => askModel(event).catch(report));
  addEventListener("hashchange", () => { readAddress(); showForm(); });
  addEventListener("resize", () => state.explanation && state.points.length && drawPlot(state.explanation));
  // Until now an id that was entered would have been lost.
  for (const control of $("entity-form").elements) control.disabled = false;
  turn();
}

$("key-dialog").addEventListener("cancel", () => { $("key").value = ""; });
$("key-button").addEventListener("click", () => { keyDeclined = false; askForKey(); });
start();
