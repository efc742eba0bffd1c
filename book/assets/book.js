// What the theme leaves out: names and roles for readers who do not see the icons, ledgers as cards on a phone, and
// figures that open at full size. Runs once the page is parsed.
(() => {
  const all = (selector) => document.querySelectorAll(selector);
  const name = (selector, label) =>
    all(selector).forEach((element) => {
      if (!element.getAttribute("aria-label")) element.setAttribute("aria-label", label);
    });

  const mend = () => {
    name(".search-button", "Search");
    name(".theme-switch-button", "Switch between light and dark");
    name(".primary-toggle, .sidebar-toggle.primary-toggle", "Table of contents");
    name(".secondary-toggle, .sidebar-toggle.secondary-toggle", "Contents of this page");
    name(".btn-fullscreen-button", "Full screen");
    name("button.copybtn", "Copy this cell");
    // What scrolls sideways must be reachable by keyboard.
    all(".bd-article pre, .bd-article div.math, .bd-article .output, .bd-article .pst-scrollable-table-container").forEach((element) => {
      if (element.scrollWidth > element.clientWidth && !element.hasAttribute("tabindex")) element.tabIndex = 0;
    });
  };

  // book.css shows a table with an outcome as cards where the page is narrow. Each cell then carries the name of its
  // column, and the roles that a table loses when it is not laid out as one are given in words.
  const ledgers = () =>
    all(".bd-article table.dataframe").forEach((table) => {
      const columns = [...table.rows[0].cells].map((cell) => cell.textContent.trim());
      if (!columns.includes("outcome")) return;
      table.classList.add("ledger");
      table.setAttribute("role", "table");
      table.querySelectorAll("thead, tbody").forEach((part) => part.setAttribute("role", "rowgroup"));
      for (const row of table.rows) {
        row.setAttribute("role", "row");
        [...row.cells].forEach((cell, i) => {
          cell.setAttribute("role", row.parentElement.tagName === "THEAD" ? "columnheader" : "cell");
          cell.dataset.column = columns[i];
        });
      }
    });

  // A button beside each figure, and a tap on it, show it as large as it was drawn; Escape or the button closes it.
  const enlarging = () => {
    const dialog = document.createElement("dialog");
    dialog.className = "enlarged";
    dialog.setAttribute("aria-label", "Enlarged figure");
    dialog.innerHTML = '<button type="button" autofocus>Close</button><div tabindex="0" role="group" aria-label="Figure"></div>';
    dialog.addEventListener("click", (event) => event.target.closest("div") || dialog.close());
    document.body.append(dialog);
    all(".bd-article .cell_output img, .bd-article figure img").forEach((image) => {
      const button = document.createElement("button");
      const open = () => {
        dialog.lastChild.replaceChildren(image.cloneNode());
        dialog.showModal();
      };
      button.type = "button";
      button.className = "enlarge";
      button.textContent = "Enlarge";
      button.addEventListener("click", open);
      image.addEventListener("click", open);
      image.after(button);
    });
  };

  document.addEventListener("DOMContentLoaded", () => {
    mend();
    ledgers();
    enlarging();
  });
  window.addEventListener("load", () => setTimeout(mend, 500)); // after MathJax and the copy buttons
})();
