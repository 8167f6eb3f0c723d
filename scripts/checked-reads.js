/** For `npm run bench -- reads`: reads of sessions under faults, checked. Writes what it found to stdout, as JSON. */
import { withModule } from './typescript.js'

await withModule('/test/torture/checked-reads.ts', ({ main }) => main(process.argv.slice(2)))
