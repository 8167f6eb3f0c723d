import { cpus, totalmem } from 'node:os'
import { parseArgs } from 'node:util'
import { benchCommit } from './commit.ts'
import type { BenchOptions, Figure } from './figure.ts'
import { benchPlacement } from './placement.ts'
import { benchReads } from './reads.ts'

/**
 * `npm run bench -- NAME --json --quick`: figures of this machine, progress on stderr. Exit code 8 when one misses its
 * target.
 */
type Bench = (progress: (text: string) => void, options: BenchOptions) => Promise<Figure[]>

const benches: Readonly<Record<string, Bench>> = { commit: benchCommit, reads: benchReads, placement: benchPlacement }

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
    options: { json: { type: 'boolean' }, quick: { type: 'boolean', default: false } },
  })
  const names = positionals.length === 0 ? Object.keys(benches) : positionals
  const reports: Report[] = []
  for (const name of names) {
    const bench = Object.hasOwn(benches, name) ? benches[name] : undefined
    if (bench === undefined) {
      process.stderr.write(`there is no bench ${JSON.stringify(name)}; there is ${Object.keys(benches).join(', ')}\n`)
      process.exitCode = 2
      return
    }
    reports.push(await run(name, bench, { quick: values.quick }))
  }
  if (values.json === true)
    process.stdout.write(`${JSON.stringify(reports.length === 1 ? reports[0] : reports, null, 2)}\n`)
  else reports.forEach(show)
  if (reports.some(({ figures }) => figures.some(({ ok }) => !ok))) process.exitCode = 8
}

try {
  await main()
} catch (error) {
  const isUsage = error instanceof Error && 'code' in error && String(error.code).startsWith('ERR_PARSE_ARGS')
  process.stderr.write(
    `${error instanceof Error ? ((isUsage ? undefined : error.stack) ?? error.message) : String(error)}\n`,
  )
  process.exitCode = isUsage ? 2 : 1
}
