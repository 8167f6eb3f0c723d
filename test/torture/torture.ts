import { parseArgs } from 'node:util'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { explore } from '../sim/commit-play.ts'
import { realParts } from '../sim/commit-world.ts'
import type { Violation } from '../sim/history.ts'
import type { TestFleet } from '../support/fleet.ts'
import { bank } from './bank-workload.ts'
import type { Cell } from './cell.ts'
import { runCell } from './cell.ts'
import type { Fault } from './faults.ts'
import { faultsOf } from './faults.ts'
import { listAppend } from './list-append-workload.ts'
import { openStand, regions } from './stand.ts'
import type { Workload } from './workload.ts'
import { Sources } from './workload.ts'

/**
 * `npm run torture`: workloads under faults on a real fleet, and the model of the commit under a deterministic scheduler,
 * for as long as it is given. A seed repeats what each client and each fault draws, in their order. It does not repeat how
 * servers and networks interleave; the model's seeds do.
 */
const workloads: Readonly<Record<string, (sources: Sources) => Workload>> = { bank, 'list-append': listAppend }
const model = 'model'
/** Between looks at the time and at signals. */
const modelSchedules = 5_000
const tellEvery = 200_000
const faultMs = 3_000
const roundsForMs = 90_000

interface Found extends Violation {
  readonly workload: string
  readonly fault: string
  readonly seed: string
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
  // All of them, so that no server outlives its supervisor.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => stop.abort())
  const cells: Cell[] = []
  const violations: Found[] = []
  const until = Date.now() + wish.minutes * 60_000
  if (wish.workload === model || (wish.workload === undefined && wish.fault === undefined)) {
    await playModel(wish, until, stop.signal, cells, violations)
  }
  if (wish.workload !== model) await playFleet(wish, until, stop.signal, cells, violations)
  if (json) process.stdout.write(`${JSON.stringify({ seed: wish.seed, cells, violations }, null, 2)}\n`)
  for (const name of new Set(cells.map(({ workload }) => workload))) bound(name, cells, violations)
  if (stop.signal.aborted) {
    say('broken off')
    return 130
  }
  return cells.length > 0 && cells.every(({ passed }) => passed) ? 0 : 8
}

/** Nothing found in n is a bound of 3/n on how often it happens, at 95 % confidence; each workload has its own. */
function bound(name: string, cells: readonly Cell[], violations: readonly Found[]): void {
  if (violations.some(({ workload }) => workload === name)) return
  const ok = cells.reduce((sum, cell) => sum + (cell.workload === name ? cell.ok : 0), 0)
  const what = name === model ? 'schedules' : 'operations'
  say(`${name}: no violation in ${ok} ${what}: below ${(3 / Math.max(1, ok)).toExponential(1)}`)
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
  if (values.workload === model && values.fault !== undefined) {
    throw new Error(`the model plays all of its faults together; --fault is for ${Object.keys(workloads).join(', ')}`)
  }
  return { wish: { seed, minutes, workload: values.workload, fault: values.fault }, json: values.json }
}

function known(what: string, name: string | undefined, names: readonly string[]): void {
  if (name !== undefined && !names.includes(name))
    throw new Error(`there is no ${what} ${name}; there is ${names.join(', ')}`)
}

/** A share of the time for the model when there is more to do. */
async function playModel(
  wish: Wish,
  until: number,
  signal: AbortSignal,
  cells: Cell[],
  violations: Found[],
): Promise<void> {
  const end = wish.workload === model ? until : Date.now() + (until - Date.now()) / 4
  let played = 0
  let passed = true
  while (passed && Date.now() < end && !signal.aborted) {
    const { failed, schedules } = explore(realParts, { seed: wish.seed + played, schedules: modelSchedules })
    played += schedules
    if (played % tellEvery === 0) say(`model: ${played} schedules`)
    if (failed !== undefined) {
      passed = false
      const explanation = `${failed.violations.join('; ')}: ${failed.trace.join(' | ')}`
      const seed = String(failed.seed)
      violations.push({ kind: model, explanation, operations: [], workload: model, fault: 'all', seed })
    }
    await new Promise((resolve) => void setImmediate(resolve))
  }
  const counts = { ok: passed ? played : played - 1, failed: passed ? 0 : 1, unknown: 0, overlap: played }
  cells.push({ workload: model, fault: 'all', passed, faultSeen: true, ...counts })
}

/** Every workload under every fault, again and again with other seeds while there is time; each pair once at least. */
async function playFleet(
  wish: Wish,
  until: number,
  signal: AbortSignal,
  cells: Cell[],
  violations: Found[],
): Promise<void> {
  let stand: Stand | undefined
  try {
    for (let round = 0; round === 0 || Date.now() < until; round += 1) {
      for (const [name, fault] of pairs(wish)) {
        if (signal.aborted || (round > 0 && Date.now() > until)) return
        const seed = `${wish.seed} ${name} ${fault.name} ${round}`
        try {
          stand ??= await open()
          const sources = new Sources(seed)
          const workload = (workloads[name] ?? bank)(sources)
          const played = await runCell({ ...stand, name, workload, fault, sources, faultMs, roundsForMs })
          cells.push(played.cell)
          violations.push(...played.violations.map((one) => ({ ...one, workload: name, fault: fault.name, seed })))
          tell(played.cell, played.violations)
        } catch (error) {
          // A cell that could not be played is one that did not pass; the next ones get a fleet of their own.
          cells.push(unplayed(name, fault.name))
          say(`FAIL ${name} / ${fault.name}: ${error instanceof Error ? error.stack : String(error)}`)
          await close(stand)
          stand = undefined
        }
      }
    }
  } finally {
    await close(stand)
  }
}

function* pairs(wish: Wish): Generator<[string, Fault]> {
  for (const name of Object.keys(workloads)) {
    if (wish.workload !== undefined && wish.workload !== name) continue
    for (const fault of faultsOf()) if (wish.fault === undefined || wish.fault === fault.name) yield [name, fault]
  }
}

interface Stand {
  readonly fleet: TestFleet
  readonly gateways: readonly Gateway[]
}

async function open(): Promise<Stand> {
  say('a fleet of two shards in three regions')
  const fleet = await openStand()
  try {
    return { fleet, gateways: await Promise.all(regions.map((region) => fleet.gateway(region))) }
  } catch (error) {
    await fleet.close()
    throw error
  }
}

async function close(stand: Stand | undefined): Promise<void> {
  if (stand === undefined) return
  say('stop')
  await stand.fleet.close().catch((error: unknown) => say(`the fleet did not stop in order: ${String(error)}`))
}

function unplayed(workload: string, fault: string): Cell {
  return { workload, fault, passed: false, faultSeen: false, ok: 0, failed: 0, unknown: 0, overlap: 0 }
}

function tell(cell: Cell, found: readonly Violation[]): void {
  const { workload, fault, passed, faultSeen, ok, failed, unknown, overlap } = cell
  const seen = faultSeen ? '' : ', the fault was not seen'
  say(
    `${passed ? 'ok  ' : 'FAIL'} ${workload} / ${fault}: ${ok} ok, ${failed} failed, ${unknown} unknown, ${overlap} during it${seen}`,
  )
  for (const { kind, explanation } of found.slice(0, 10)) say(`     ${kind}: ${explanation}`)
}
