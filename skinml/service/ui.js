// What MLflow's UI needs so that skinml's runs open as they should: skinml/service/ui.py puts it
// into MLflow's page, before MLflow's own script. It uses what MLflow 3.17.2 keeps in the browser
// and in its addresses; tests/store/test_views.py looks at each of these in a browser.
(() => {
  "use strict";

  // What the UI opens with until a person has chosen: model training instead of generative AI, no
  // assistant, which would take a quarter of the page, and no window about the model registry.
  const UNCHOSEN = {
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "_mlflow_model_registry_promo_modal_dismissed_v1": "true",
  };
  for (const [name, value] of Object.entries(UNCHOSEN))
    if (localStorage.getItem(name) === null) localStorage.setItem(name, value);

  // An experiment's list of runs opens in this view, once: what a person then changes is kept.
  const VIEW = "mlflow.sharedViewState.skinml-results-table";

  function openInView(address) {
    const id = /#\/experiments\/(\d+)/.exec(address)?.[1];
    const key = `MLflowLocalStorage-1.1-ExperimentPage-["${id}"]-ReactComponentState`;
    if (!id || localStorage.getItem(key) !== null) return;
    // Waited for: what is there when the page of the experiment is made is what it shows.
    const request = new XMLHttpRequest();
    request.open("GET", `ajax-api/2.0/mlflow/experiments/get?experiment_id=${id}`, false);
    request.send();
    if (request.status !== 200) return;
    const tags = JSON.parse(request.responseText).experiment.tags ?? [];
    const view = tags.find((tag) => tag.key === VIEW);
    if (view) localStorage.setItem(key, JSON.parse(view.value).state);
  }

  // The UI writes a saved view's filter and order into the address. Where it finds them there, by a
  // reload or a step back, it shows the view without its columns and charts.
  const FILTER = [
    "searchFilter", "orderByKey", "orderByAsc", "startTime", "lifecycleFilter",
    "modelVersionFilter", "datasetsFilter",
  ];

  function openViewWhole() {
    const [page, query] = location.hash.split("?");
    const words = new URLSearchParams(query);
    if (!words.has("viewStateShareKey")) return;
    FILTER.forEach((name) => words.delete(name));
    history.replaceState(history.state, "", `${page}?${words}`);
  }

  // In lists of runs four digits of a number; a run's own page has all of them. Tags that nobody
  // reads are named like MLflow's own, which the UI does not show.
  const BOOKKEEPING =
    /("key":\s*")(process"|skinml\.(?:acknowledged|done_before|journal|lease|superseded)")/g;
  const FRACTION = /("value":\s*)(-?\d+\.\d+(?:e[-+]?\d+)?)/g;

  const round = (value) =>
    Math.abs(value) < 1000 ? Number(value.toPrecision(4)) : Math.round(value);

  const fetchAsIs = window.fetch;
  window.fetch = async (resource, options) => {
    const answer = await fetchAsIs(resource, options);
    const [address] = String(resource.url ?? resource).split("?");
    if (!/\/(graphql|runs\/get|runs\/search)$/.test(`/${address}`)) return answer;
    let text = (await answer.text()).replace(BOOKKEEPING, "$1mlflow.$2");
    if (address.endsWith("runs/search"))
      text = text.replace(FRACTION, (_, name, value) => name + round(Number(value)));
    return new Response(text, answer);
  };

  const pushState = history.pushState;
  history.pushState = function (state, title, address) {
    openInView(String(address));
    pushState.call(this, state, title, address);
  };
  // Before MLflow's own listener, which reads the address.
  window.addEventListener("popstate", openViewWhole);
  openViewWhole();
  openInView(location.hash);
})();
