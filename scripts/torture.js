import { withModule } from './typescript.js'

process.exitCode = await withModule('/test/torture/torture.ts', ({ main }) => main(process.argv.slice(2)))
