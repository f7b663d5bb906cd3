// Term weights by transformers.js: node encode.mjs FOLDER fp32|q8 < texts.json > weights.json
import { readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { AutoModel, AutoTokenizer, env } from "@huggingface/transformers";

const [folder, dtype] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = dirname(folder);
const tokenizer = await AutoTokenizer.from_pretrained(basename(folder));
const model = await AutoModel.from_pretrained(basename(folder), { dtype });
const texts = JSON.parse(readFileSync(0, "utf8"));
const { weights } = await model(await tokenizer(texts, { padding: true, truncation: true }));
process.stdout.write(JSON.stringify(weights.tolist()));
