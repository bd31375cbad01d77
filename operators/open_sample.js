// What Python cannot reach in FiftyOne 1.22: the sample that is open. Its sidebar gets the grid's fields
// when it is opened, and its labels are read then; reloading the dataset renews neither.
// Plain JavaScript, as the App loads it; the App's own packages are on `window`.
(() => {
  const { Operator, OperatorConfig, registerOperator } = window.__foo__;
  const { datasetName, modalLooker, modalSelector, sidebarGroupsDefinition, useUpdateSamples } =
    window.__fos__;
  const { getFetchFunction } = window.__fou__;
  const { useRecoilCallback } = window.recoil;
  const STEP = 500; // ms
  const LONGEST = 10_000; // ms
  const QUIET = 4; // steps without drawing
  const SAMPLE = `query ($dataset: String!, $id: String!) {
    sample(dataset: $dataset, view: [], filter: { id: $id }) { ... on ImageSample { sample } }
  }`;

  /** Asks again and again; whether it was so in time. */
  async function until(isSo) {
    for (let waited = 0; waited < LONGEST; waited += STEP) {
      if (await isSo()) return true;
      await new Promise((resolve) => setTimeout(resolve, STEP));
    }
    return false;
  }

  /** Whether a sample is being drawn: one that is given then would be dropped, or lose its heatmaps. */
  const isBusy = (looker) =>
    looker.isSampleUpdating || looker.asyncLabelsRenderingManager?.isProcessing();

  class RefreshOpenSample extends Operator {
    get config() {
      return new OperatorConfig({
        name: "refresh_open_sample",
        label: "Show new fields of the sample that is open",
        unlisted: true,
      });
    }

    useHooks() {
      const updateSamples = useUpdateSamples();
      // callbacks: each call of them sees the App as it is by then
      const copyFields = useRecoilCallback(({ snapshot, set }) => async (fields) => {
        const groups = await snapshot.getPromise(sidebarGroupsDefinition(false));
        const known = new Set(groups.flatMap(({ paths }) => paths));
        if (!fields.every((field) => known.has(field))) return false;
        set(sidebarGroupsDefinition(true), groups);
        return true;
      });
      const isQuiet = useRecoilCallback(({ snapshot }) => async () => {
        const looker = await snapshot.getPromise(modalLooker);
        return looker && !isBusy(looker);
      });
      const readSample = useRecoilCallback(({ snapshot }) => async () => {
        const id = (await snapshot.getPromise(modalSelector))?.id;
        if (!id) return null;
        const variables = { dataset: await snapshot.getPromise(datasetName), id };
        const { data } = await getFetchFunction()("POST", "/graphql", { query: SAMPLE, variables });
        const sample = data?.sample?.sample;
        return typeof sample === "string" ? JSON.parse(sample) : sample;
      });
      return { copyFields, isQuiet, readSample, updateSamples };
    }

    async execute({ hooks, params }) {
      await until(() => hooks.copyFields(params.fields ?? []));
      // the fields' new colours are drawn first: they come when the server has answered
      let quiet = 0;
      const isQuietLong = async () => {
        quiet = (await hooks.isQuiet()) ? quiet + 1 : 0;
        return quiet >= QUIET;
      };
      if (!(await until(isQuietLong))) return; // left as it is, rather than broken
      const sample = await hooks.readSample();
      if (sample) hooks.updateSamples([[sample._id, sample]]);
    }
  }

  registerOperator(RefreshOpenSample, "@cam51/heatmaps");
})();
