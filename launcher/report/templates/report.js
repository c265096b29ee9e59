"use strict";
// The table of samples. Everything in the data is untrusted text: it reaches the page through textContent only.
(() => {
  const PAGE = 50;
  const SHOWN = 160;
  // What a line has in common stands once in it, in `shared`: docs/tasks.md says how.
  const isTokens = (prompt) => Array.isArray(prompt) && prompt.every((item) => typeof item === "number");
  const promptsOf = (prompt) => Array.isArray(prompt) && prompt.length && !isTokens(prompt) ? prompt : [prompt];
  const whole = (row) => {
    const shared = row.shared;
    if (!shared) return row;
    const several = Array.isArray(row.request);
    const requests = several ? row.request : [row.request];
    const responses = several ? row.response : [row.response];
    if (shared.prompt !== undefined) requests.forEach(({ body }) => {
      const longer = (prompt) => typeof prompt === "string" ? shared.prompt + prompt : shared.prompt.concat(prompt);
      const made = promptsOf(body.prompt).map(longer);
      body.prompt = promptsOf(body.prompt) === body.prompt ? made : made[0];
    });
    requests.forEach(({ body }, number) => {
      const choices = body.echo && responses[number] && Array.isArray(responses[number].choices) ? responses[number].choices : [];
      choices.forEach((choice) => {
        const prompts = promptsOf(body.prompt);
        const start = shared.echo ? prompts[Math.floor(choice.index * prompts.length / choices.length)] : shared.text || "";
        choice.text = start + choice.text;
        const logprobs = choice.logprobs;
        if (shared.context && logprobs && logprobs.merged_tokens !== undefined) logprobs.tokens[0] = choice.text.slice(0, logprobs.text_offset[1]);
      });
    });
    return row;
  };
  const rows = JSON.parse(document.getElementById("data").textContent).map(whole);
  const at = (id) => document.getElementById(id);
  const controls = {
    task: at("filter-task"), status: at("filter-status"), answer: at("filter-answer"), order: at("order"), search: at("search"),
  };
  let matching = rows;
  let page = 0;

  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const say = (value) => value === null || value === undefined ? "" : typeof value === "string" ? value : JSON.stringify(value);
  const named = (value) => value !== null && typeof value === "object" && typeof value.text === "string" ? value.text : say(value);
  const brief = (text) => {
    const line = text.slice(0, 4 * SHOWN).replace(/\s+/g, " ").trim();
    return line.length > SHOWN ? line.slice(0, SHOWN) + "…" : line;
  };
  const figure = (value) => Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
  const seconds = (value) => typeof value !== "number" ? "" : value < 1 ? (value * 1000).toFixed(0) + " ms" : value.toFixed(value < 60 ? 1 : 0) + " s";

  const content = (value) => typeof value === "string" ? value
    : Array.isArray(value) ? value.map((part) => part && typeof part.text === "string" ? part.text : say(part)).join("\n") : say(value);
  const prompts = (prompt) => {
    if (typeof prompt === "string") return [prompt];
    if (!Array.isArray(prompt)) return [say(prompt)];
    if (prompt.every((item) => typeof item === "number")) return [prompt.length + " token ids: " + prompt.join(" ")];
    return prompt.map((item) => typeof item === "string" ? item : say(item));
  };

  // The requests, or the responses, of a sample: several are a list, one stands alone.
  const each = (row, name, pairs) => {
    const several = Array.isArray(row.request);
    const values = several && Array.isArray(row[name]) ? row[name] : [row[name]];
    const numbered = (label, number) => several ? label + " of request " + (number + 1) : label;
    return values.flatMap((value, number) => pairs(value).map(([label, text]) => [numbered(label, number), text]));
  };
  // What was asked, as [label, text] pairs.
  const asked = (row) => each(row, "request", askedIn);
  const askedIn = (request) => {
    const body = request && request.body;
    if (!body) return request ? [["request", say(request)]] : [];
    if (Array.isArray(body.messages)) {
      return body.messages.map((message) => [say(message && message.role) || "message", content(message && message.content)]);
    }
    if (body.prompt === undefined) return [["request", say(body)]];
    const every = prompts(body.prompt);
    return every.map((prompt, number) => [every.length > 1 ? "prompt " + (number + 1) : "prompt", prompt]);
  };
  // What was answered, as [label, text] pairs.
  const answered = (row) => each(row, "response", answeredIn);
  const answeredIn = (response) => {
    if (!response || !Array.isArray(response.choices)) return response ? [["response", say(response)]] : [];
    const many = response.choices.length > 1;
    return response.choices.flatMap((choice, number) => {
      if (!choice) return [];
      const message = choice.message || {};
      const name = (word) => many ? word + " " + (number + 1) : word;
      const reasoning = message.reasoning_content || message.reasoning;
      const text = choice.message ? content(message.content) : say(choice.text);
      const ended = choice.finish_reason ? " (" + say(choice.finish_reason) + ")" : "";
      return [...(reasoning ? [[name("reasoning"), content(reasoning)]] : []), [name("response") + ended, text]];
    });
  };
  // What the prompts of one request have in common: the question of a multiple-choice item.
  const shared = (texts) => {
    let length = 0;
    while (length < texts[0].length && texts.every((text) => text[length] === texts[0][length])) length += 1;
    return texts[0].slice(0, length).trim() || texts[0];
  };
  const question = (row) => {
    const pairs = asked(row);
    const users = pairs.filter((pair) => /^user\b/.test(pair[0]));
    return users.length ? users[users.length - 1][1] : pairs.length ? shared(pairs.map((pair) => pair[1])) : "";
  };
  // The answers worth reading: a request for log-probabilities is answered with its own prompts.
  const read = (row) => {
    const prompts = asked(row).map((pair) => pair[1]);
    const answers = answered(row);
    const requests = Array.isArray(row.request) ? row.request : [row.request];
    const echo = requests.every((request) => request && request.body && request.body.echo === true);
    const echoed = echo && answers.length === prompts.length &&
      answers.every((pair, number) => pair[1].startsWith(prompts[number].slice(0, 1000)));
    return echoed ? [["response", "(the prompts, echoed; the log-probabilities are in the raw response)"]] : answers;
  };
  const grade = (row) => {
    const first = Object.values(row.scores || {})[0];
    return row.status !== "scored" || typeof first !== "number" ? "" : first >= 1 ? "right" : first <= 0 ? "wrong" : "partial";
  };
  // Wrong answers come first, then those that are partly right, then samples without a score.
  const RANKS = { wrong: 0, partial: 1, right: 3 };
  const rank = (row) => RANKS[grade(row)] ?? 2;
  const haystack = (row) => {
    if (row.haystack === undefined) {
      const parts = [row.id, row.reason, row.prediction, row.target, ...asked(row).map((pair) => pair[1]), ...answered(row).map((pair) => pair[1])];
      row.haystack = parts.map(say).join("\n").toLowerCase();
    }
    return row.haystack;
  };

  const filter = () => {
    const text = controls.search.value.trim().toLowerCase();
    matching = rows.filter((row) =>
      (!controls.task.value || row.task === controls.task.value) &&
      (!controls.status.value || row.status === controls.status.value) &&
      (!controls.answer.value || grade(row) === controls.answer.value) &&
      (!text || haystack(row).includes(text)));
    if (controls.order.value === "wrong") matching.sort((a, b) => rank(a) - rank(b));
    if (controls.order.value === "latency") matching.sort((a, b) => (b.latency_s || 0) - (a.latency_s || 0));
    page = 0;
    draw();
  };

  const draw = () => {
    const first = page * PAGE;
    const visible = matching.slice(first, first + PAGE);
    at("rows").replaceChildren(...visible.map(drawRow));
    at("count").textContent = matching.length
      ? (first + 1).toLocaleString("en") + " to " + (first + visible.length).toLocaleString("en") + " of " + matching.length.toLocaleString("en") + (matching.length < rows.length ? " matching samples" : " samples")
      : "No samples";
    at("none").hidden = matching.length > 0;
    at("previous").disabled = page === 0;
    at("next").disabled = first + PAGE >= matching.length;
  };

  const cell = (className, text, label) => {
    const node = make("td", className);
    if (label) node.dataset.label = label;
    const inner = make("span", "text", text);
    inner.dir = "auto";
    node.append(inner);
    return node;
  };
  const drawRow = (row) => {
    const line = make("tr", "sample");
    const button = make("button", "toggle");
    button.type = "button";
    button.setAttribute("aria-expanded", "false");
    button.setAttribute("aria-label", "Details of " + say(row.task) + " " + say(row.id));
    const toggle = make("td", "c-toggle");
    toggle.append(button);
    const status = make("td", "c-status");
    const right = grade(row);
    status.append(make("span", "chip is-" + (right || say(row.status)), right === "partial" ? "partly right" : right || say(row.status)));
    const id = cell("c-id", say(row.id) + (row.repeat ? " · repeat " + row.repeat : ""));
    id.prepend(make("span", "soft", say(row.task)));
    const values = Object.values(row.scores || {});
    line.append(toggle, status, id,
      cell("c-question", brief(question(row))),
      cell("c-prediction", brief(named(row.prediction === null || row.prediction === undefined ? row.reason : row.prediction)), row.prediction === null || row.prediction === undefined ? "reason" : "prediction"),
      cell("c-target", brief(named(row.target)), "target"),
      cell("c-scores figure", values.length && typeof values[0] === "number" ? figure(values[0]) : "", "score"),
      cell("c-latency figure", seconds(row.latency_s), "latency"));
    line.addEventListener("click", () => { if (!String(getSelection())) expand(line, button, row); });
    return line;
  };

  const expand = (line, button, row) => {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    line.classList.toggle("open", !open);
    if (open) { line.nextSibling.remove(); return; }
    const details = make("tr", "details");
    const holder = make("td");
    holder.colSpan = 8;
    holder.append(describe(row));
    details.append(holder);
    line.after(details);
  };
  const block = (parent, label, text, className) => {
    if (text === "") return;
    parent.append(make("h4", "", label));
    const pre = make("pre", className, text);
    pre.dir = "auto";
    pre.tabIndex = 0;
    parent.append(pre);
  };
  // The choices of a multiple-choice item with their log-likelihoods; nothing for other samples.
  const choices = (parent, row) => {
    const texts = row.target && row.target.choices;
    const values = row.prediction && row.prediction.loglikelihoods;
    if (!Array.isArray(texts) || !Array.isArray(values)) return;
    const numbers = values.filter((value) => typeof value === "number");
    const most = Math.max(...numbers);
    const table = make("table", "choices");
    const head = make("tr");
    for (const name of ["Choice", "Log-likelihood", "Share", ""]) head.append(make("th", name === "Choice" || !name ? "" : "figure", name));
    table.append(make("thead"));
    table.firstChild.append(head);
    const total = numbers.reduce((sum, value) => sum + Math.exp(value - most), 0);
    const body = make("tbody");
    texts.forEach((text, number) => {
      const value = values[number];
      const known = typeof value === "number";
      const share = known ? Math.exp(value - most) / total : 0;
      const marks = [number === row.target.index && "right", number === row.prediction.index && "predicted", number === row.prediction.index_norm && row.prediction.index_norm !== row.prediction.index && "predicted by length"].filter(Boolean);
      const line = make("tr", number === row.target.index ? "is-right" : number === row.prediction.index ? "is-wrong" : "");
      const name = make("td", "", say(text));
      name.dir = "auto";
      const marked = make("td");
      if (marks.length) marked.append(make("span", "chip", marks.join(", ")));
      line.append(name, make("td", "figure", known ? value.toFixed(3) : "?"), make("td", "figure", known ? (100 * share).toFixed(1) + " %" : "?"), marked);
      body.append(line);
    });
    table.append(body);
    parent.append(make("h4", "", "choices"), table);
  };
  const tokens = (usage) => typeof usage !== "object" ? say(usage)
    : Object.entries(usage).filter(([, count]) => typeof count === "number").map(([name, count]) => count + " " + name.replace(/_/g, " ")).join(", ");
  const describe = (row) => {
    const box = make("div", "expanded");
    block(box, "Reason", say(row.reason), "reason");
    for (const [label, text] of asked(row)) block(box, label, text, "asked");
    for (const [label, text] of read(row)) block(box, label, text || "(empty)", "answered");
    choices(box, row);
    const pair = make("div", "pair");
    for (const name of ["prediction", "target"]) {
      const half = make("div");
      block(half, name, row[name] === null || row[name] === undefined ? "(none)" : named(row[name]));
      pair.append(half);
    }
    box.append(pair);
    const scores = Object.entries(row.scores || {}).map(([name, value]) => name + " " + say(value)).join(", ");
    box.append(make("p", "soft", [scores && "Scores: " + scores, row.usage && "Usage: " + tokens(row.usage), seconds(row.latency_s) && "Latency: " + seconds(row.latency_s)].filter(Boolean).join(" · ")));
    for (const name of ["request", "response"]) {
      if (row[name] === null || row[name] === undefined) continue;
      const raw = make("details");
      raw.append(make("summary", "", "Raw " + name));
      raw.addEventListener("toggle", () => { if (raw.open && !raw.querySelector("pre")) raw.append(make("pre", "", JSON.stringify(row[name], null, 2))); });
      box.append(raw);
    }
    return box;
  };

  const options = (select, values) => select.append(...values.map((value) => {
    const option = make("option", "", value);
    option.value = value;
    return option;
  }));
  options(controls.task, [...new Set(rows.map((row) => say(row.task)))]);
  options(controls.status, [...new Set(rows.map((row) => say(row.status)))].sort());
  for (const name of ["task", "status", "answer", "order"]) controls[name].addEventListener("change", filter);
  let typing = 0;
  controls.search.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(filter, 150); });
  const turn = (by) => { page += by; draw(); at("samples").scrollIntoView(); };
  at("previous").addEventListener("click", () => turn(-1));
  at("next").addEventListener("click", () => turn(1));
  at("browser").hidden = false;
  filter();
})();
