// No module, as the others are: of a page that was opened as a file browsers load none.
if (location.protocol === "file:") {
  const state = document.getElementById("state");
  state.classList.add("bad");
  state.textContent = "Opened as a file this page cannot load its network: it needs a web server, "
    + "such as python -m http.server in its folder.";
}
