import { cpus, totalmem } from 'node:os'
import type { Figure } from './figure.ts'
import { benchPlacement } from './placement.ts'

/** `npm run bench -- NAME --json`: figures of this machine, progress on stderr. */
const benches: Readonly<Record<string, () => Promise<Figure[]>>> = { placement: benchPlacement }

const args = process.argv.slice(2)
const json = args.includes('--json')
const wanted = args.filter((arg) => !arg.startsWith('--'))
const unknown = wanted.find((name) => !Object.hasOwn(benches, name))

if (unknown !== undefined) {
  process.stderr.write(`no bench ${JSON.stringify(unknown)}; there is ${Object.keys(benches).join(', ')}\n`)
  process.exitCode = 2
} else {
  for (const name of wanted.length === 0 ? Object.keys(benches) : wanted) await run(name)
}

async function run(name: string): Promise<void> {
  process.stderr.write(`bench ${name}\n`)
  const figures = (await benches[name]?.()) ?? []
  const machine = { cpus: cpus().length, cpu: cpus()[0]?.model ?? '', memoryBytes: totalmem(), node: process.version }
  if (json) process.stdout.write(`${JSON.stringify({ name, machine, figures }, null, 2)}\n`)
  else
    for (const { name: what, value, unit, target } of figures)
      process.stdout.write(`${what}: ${value} ${unit} (${target})\n`)
  if (figures.some(({ ok }) => !ok)) process.exitCode = 8
}
