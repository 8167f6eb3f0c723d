/** One of the workers of `test/torture/model-play.ts`. */
import { parentPort } from 'node:worker_threads'
import { withModule } from './typescript.js'

await withModule('/test/torture/model-worker.ts', ({ answer }) => answer(parentPort))
