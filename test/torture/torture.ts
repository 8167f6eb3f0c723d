import { parseArgs } from 'node:util'
import { quietRuntime } from '../../src/fleet/fleet.ts'
import { numbersFrom, explore } from '../sim/commit-play.ts'
import { realParts } from '../sim/commit-world.ts'
import type { Violation } from '../sim/history.ts'
import type { TestFleet } from '../support/fleet.ts'
import { bank } from './bank-workload.ts'
import type { Cell } from './cell.ts'
import { runCell } from './cell.ts'
import { faultsOf } from './faults.ts'
import { listAppend } from './list-append-workload.ts'
import { openStand, regions } from './stand.ts'
import type { Below, Workload } from './workload.ts'

/**
 * `npm run torture`: workloads under faults on a real fleet, and the model of the commit under a deterministic scheduler,
 * for as long as it is given. A seed repeats what was scheduled: which operations, which fault where and when. It does not
 * repeat how servers and networks interleave; the model's seeds do.
 */
const workloads: Readonly<Record<string, (below: Below) => Workload>> = { bank, 'list-append': listAppend }
const model = 'model'
const modelSchedules = 200_000
const faultMs = 3_000

interface Found extends Violation {
  readonly workload: string
  readonly fault: string
  readonly seed: number
}

interface Wish {
  readonly seed: number
  readonly minutes: number
  readonly workload: string | undefined
  readonly fault: string | undefined
}

const say = (text: string) => void process.stderr.write(`${text}\n`)

/** The exit code: 0 when all cells passed, 8 when one did not, 2 for a call that makes no sense. */
export async function main(args: readonly string[]): Promise<number> {
  let wish: Wish
  let json: boolean
  try {
    ;({ wish, json } = read(args))
  } catch (error) {
    say(error instanceof Error ? error.message : String(error))
    return 2
  }
  say(`seed ${wish.seed}`)
  const stop = new AbortController()
  process.once('SIGINT', () => stop.abort())
  const cells: Cell[] = []
  const violations: Found[] = []
  const until = Date.now() + wish.minutes * 60_000
  if (wish.workload === undefined || wish.workload === model) playModel(wish, until, cells, violations)
  if (wish.workload !== model) await playFleet(wish, until, stop.signal, cells, violations)
  if (json) process.stdout.write(`${JSON.stringify({ seed: wish.seed, cells, violations }, null, 2)}\n`)
  const checked = cells.reduce((sum, { ok }) => sum + ok, 0)
  if (violations.length === 0)
    say(`no violation in ${checked} operations: below ${(3 / Math.max(1, checked)).toExponential(1)}`)
  return cells.length > 0 && cells.every(({ passed }) => passed) ? 0 : 8
}

function read(args: readonly string[]): { wish: Wish; json: boolean } {
  const { values } = parseArgs({
    args: [...args],
    options: {
      seed: { type: 'string' },
      minutes: { type: 'string', default: '10' },
      workload: { type: 'string' },
      fault: { type: 'string' },
      json: { type: 'boolean', default: false },
    },
  })
  const seed = values.seed === undefined ? Date.now() % 2 ** 31 : Number(values.seed)
  const minutes = Number(values.minutes)
  if (!Number.isSafeInteger(seed) || seed < 0) throw new Error(`--seed takes a whole number, not ${values.seed}`)
  if (!(minutes > 0)) throw new Error(`--minutes takes a number above 0, not ${values.minutes}`)
  known('workload', values.workload, [...Object.keys(workloads), model])
  known(
    'fault',
    values.fault,
    faultsOf().map(({ name }) => name),
  )
  return { wish: { seed, minutes, workload: values.workload, fault: values.fault }, json: values.json }
}

function known(what: string, name: string | undefined, names: readonly string[]): void {
  if (name !== undefined && !names.includes(name))
    throw new Error(`there is no ${what} ${name}; there is ${names.join(', ')}`)
}

/** A share of the time for the model when there is more to do. */
function playModel(wish: Wish, until: number, cells: Cell[], violations: Found[]): void {
  const end = wish.workload === model ? until : Date.now() + (until - Date.now()) / 4
  let played = 0
  while (Date.now() < end) {
    const seed = wish.seed + played
    const { failed, schedules } = explore(realParts, { seed, schedules: modelSchedules })
    played += schedules
    say(`model: ${played} schedules`)
    if (failed === undefined) continue
    const explanation = `${failed.violations.join('; ')}: ${failed.trace.join(' | ')}`
    violations.push({ kind: model, explanation, operations: [], workload: model, fault: 'all', seed: failed.seed })
    break
  }
  const passed = violations.length === 0
  cells.push({
    workload: model,
    fault: 'all',
    passed,
    faultSeen: true,
    ok: played,
    failed: 0,
    unknown: 0,
    overlap: played,
  })
}

/** Every workload under every fault, again and again with other seeds while there is time; each pair once at least. */
async function playFleet(
  wish: Wish,
  until: number,
  signal: AbortSignal,
  cells: Cell[],
  violations: Found[],
): Promise<void> {
  say('a fleet of two shards in three regions')
  const fleet = await openStand()
  try {
    const gateways = await Promise.all(
      regions.map((region) => fleet.gateway(region, { ...quietRuntime, archives: 'own region' })),
    )
    for (let round = 0; round === 0 || Date.now() < until; round += 1) {
      for (const [name, make] of Object.entries(workloads)) {
        if (wish.workload !== undefined && wish.workload !== name) continue
        for (const fault of faultsOf()) {
          if (wish.fault !== undefined && wish.fault !== fault.name) continue
          if (signal.aborted || (round > 0 && Date.now() > until)) return
          const seed = wish.seed + cells.length
          const below = belowFrom(seed)
          const { cell, violations: found } = await runCell({
            fleet,
            gateways,
            name,
            workload: make(below),
            fault,
            below,
            faultMs,
          })
          cells.push(cell)
          violations.push(...found.map((one) => ({ ...one, workload: name, fault: fault.name, seed })))
          tell(cell, found)
        }
      }
    }
  } finally {
    await close(fleet)
  }
}

function tell(cell: Cell, found: readonly Violation[]): void {
  const { workload, fault, passed, faultSeen, ok, failed, unknown, overlap } = cell
  const seen = faultSeen ? '' : ', the fault was not seen'
  say(
    `${passed ? 'ok  ' : 'FAIL'} ${workload} / ${fault}: ${ok} ok, ${failed} failed, ${unknown} unknown, ${overlap} during it${seen}`,
  )
  for (const { kind, explanation } of found.slice(0, 10)) say(`     ${kind}: ${explanation}`)
}

async function close(fleet: TestFleet): Promise<void> {
  say('stop')
  await fleet.close()
}

function belowFrom(seed: number): Below {
  const next = numbersFrom(seed)
  return (limit) => next() % limit
}
