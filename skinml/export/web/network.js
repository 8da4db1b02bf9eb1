// The exported network in LiteRT's WebAssembly: pixels of pixels.js → a score for each class.

import {loadAndCompile, loadLiteRt, Tensor} from "./litert/index.js";

export async function loadNetwork() {
  await loadLiteRt("./litert/");
  const model = await loadAndCompile("./model.tflite", {accelerator: "wasm"});
  return async (pixels) => {
    const input = new Tensor(pixels, [1, 224, 224, 3]);
    const outputs = await model.run(input);
    const scores = Array.from(await outputs[0].data());
    for (const tensor of [input, ...outputs]) tensor.delete();
    return scores;
  };
}
