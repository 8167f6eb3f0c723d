import { cpus, totalmem } from 'node:os'
import { parseArgs } from 'node:util'
import { benchCommit } from './commit.ts'
import type { BenchOptions, Figure } from './figure.ts'
import { heedSignals, Interrupted } from './interrupt.ts'
import { benchPlacement } from './placement.ts'
import { benchReads } from './reads.ts'

/** `npm run bench`: figures of this machine, progress on stderr. */
type Bench = (progress: (text: string) => void, options: BenchOptions) => Promise<Figure[]>

const benches: Readonly<Record<string, Bench>> = { commit: benchCommit, reads: benchReads, placement: benchPlacement }

const usage = `npm run bench -- [NAME ...] [options]

  NAME     one of ${Object.keys(benches).join(', ')}; all of them when none is named
  --quick  shorter windows, for a first look
  --json   one document on stdout at the end
  --help   this

Ends with 0 when every figure reaches its target, 8 when one misses it, 2 for a call that makes no sense,
130 when broken off.
`

interface Report {
  readonly name: string
  readonly machine: Readonly<Record<string, unknown>>
  readonly figures: readonly Figure[]
}

async function run(name: string, bench: Bench, options: BenchOptions): Promise<Report> {
  const figures = await bench((text) => void process.stderr.write(`${name}: ${text}\n`), options)
  const machine = {
    cpus: cpus().length,
    cpu: cpus()[0]?.model ?? '',
    memoryBytes: totalmem(),
    platform: `${process.platform}-${process.arch}`,
    node: process.version,
  }
  return { name, machine, figures }
}

function show({ name, figures }: Report): void {
  for (const { name: what, value, unit, bare, ratio, target, ok } of figures) {
    const beside = bare === null ? '' : `, bare ${bare}, ratio ${ratio}`
    process.stdout.write(`${ok ? 'ok  ' : 'MISS'} ${name}: ${what} ${value} ${unit}${beside} (${target})\n`)
  }
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      json: { type: 'boolean', default: false },
      quick: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) {
    process.stdout.write(usage)
    return
  }
  const unknown = positionals.find((name) => !Object.hasOwn(benches, name))
  if (unknown !== undefined) {
    process.stderr.write(`there is no bench ${JSON.stringify(unknown)}; there is ${Object.keys(benches).join(', ')}\n`)
    process.exitCode = 2
    return
  }
  heedSignals()
  const reports: Report[] = []
  for (const [name, bench] of Object.entries(benches)) {
    if (positionals.length > 0 && !positionals.includes(name)) continue
    reports.push(await run(name, bench, { quick: values.quick }))
  }
  if (values.json) process.stdout.write(`${JSON.stringify(reports.length === 1 ? reports[0] : reports, null, 2)}\n`)
  else reports.forEach(show)
  if (reports.some(({ figures }) => figures.some(({ ok }) => !ok))) process.exitCode = 8
}

try {
  await main()
} catch (error) {
  if (error instanceof Interrupted) {
    process.stderr.write(`${error.message}\n`)
    process.exit(130)
  }
  const isUsage = error instanceof Error && 'code' in error && String(error.code).startsWith('ERR_PARSE_ARGS')
  process.stderr.write(
    `${error instanceof Error ? ((isUsage ? undefined : error.stack) ?? error.message) : String(error)}\n`,
  )
  process.exitCode = isUsage ? 2 : 1
}
