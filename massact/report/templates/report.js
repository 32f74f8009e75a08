/* Folded parts open when they are printed or linked to. Tables sort by a click on a header; without scripts they stand as they were written. Missing is always last. */
"use strict";
const folded = [...document.querySelectorAll("details")];
const unfold = () => { const one = document.getElementById(location.hash.slice(1)); if (one) one.open = true; };
let closed = [];
addEventListener("hashchange", unfold);
addEventListener("beforeprint", () => { closed = folded.filter((one) => !one.open); closed.forEach((one) => (one.open = true)); });
addEventListener("afterprint", () => closed.forEach((one) => (one.open = false)));
unfold();
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const headers = [...table.tHead.rows[0].cells];
  if (body.rows.length < 2) continue;
  const written = [...body.rows];
  const key = (row, column) => {
    const cell = row.cells[column];
    const text = cell.firstChild ? cell.textContent.trim() : "";
    if (text === "" || text === "\u2014") return null;
    const value = cell.dataset.value ?? text.replace(/,/g, "").replace(/\u2212/g, "-");
    const number = Number.parseFloat(value);
    return /^[+-]?[\d.]/.test(value) && !Number.isNaN(number) ? number : text.toLowerCase();
  };
  const compare = (a, b) => {
    if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
    return typeof a === "number" ? -1 : 1;
  };
  const sort = (column, order) => {
    const rows = written.map((row, place) => ({ row, place, key: key(row, column) }));
    if (order !== "none") {
      const sign = order === "descending" ? -1 : 1;
      rows.sort((a, b) => {
        if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.place - b.place;
        return sign * compare(a.key, b.key) || a.place - b.place;
      });
    }
    body.append(...rows.map((one) => one.row));
    headers.forEach((header, index) => {
      if (index === column && order !== "none") header.setAttribute("aria-sort", order);
      else header.removeAttribute("aria-sort");
    });
  };
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    const first = header.classList.contains("number") ? "descending" : "ascending";
    const second = first === "ascending" ? "descending" : "ascending";
    button.addEventListener("click", () => {
      const now = header.getAttribute("aria-sort");
      sort(column, now === null ? first : now === first ? second : "none");
    });
  });
}
