// Names and roles that the theme leaves out, for readers who do not see the icons. Runs once the page is parsed.
(() => {
  const name = (selector, label) =>
    document.querySelectorAll(selector).forEach((element) => {
      if (!element.getAttribute("aria-label")) element.setAttribute("aria-label", label);
    });

  const mend = () => {
    name(".search-button, .search-button__button", "Search");
    name(".theme-switch-button", "Switch between light and dark");
    name(".primary-toggle, .sidebar-toggle.primary-toggle", "Table of contents");
    name(".secondary-toggle, .sidebar-toggle.secondary-toggle", "Contents of this page");
    name(".btn-fullscreen-button", "Full screen");
    name("button.copybtn", "Copy this cell");
    // What scrolls sideways must be reachable by keyboard.
    document
      .querySelectorAll(".bd-article pre, .bd-article div.math, .bd-article .output, .bd-article .pst-scrollable-table-container")
      .forEach((element) => {
        if (element.scrollWidth > element.clientWidth && !element.hasAttribute("tabindex")) element.tabIndex = 0;
      });
  };

  document.addEventListener("DOMContentLoaded", mend);
  window.addEventListener("load", () => setTimeout(mend, 500)); // after MathJax and the copy buttons
})();
