import { parseArgs } from 'node:util'
import { stepsPlay } from '../crash/steps-play.ts'
import { fleetPlay } from './fleet-play.ts'
import type { KeptHistory } from './history-file.ts'
import { readHistory } from './history-file.ts'
import { modelPlay, sessionModelPlay } from './model-play.ts'
import type { Asked, Part, Play } from './play.ts'
import { plantedPlay } from './planted-play.ts'
import { Report, say } from './play.ts'
import { workloadOf } from './workloads.ts'

/**
 * `npm run torture`: workloads under faults on a real fleet, and the models of the commit and of sessions under a deterministic
 * scheduler, for as long as it is given. A seed repeats what each client and each fault draws, in their order. It does not repeat how
 * servers and networks interleave; the models' seeds do.
 */
const plays: readonly Play[] = [modelPlay, sessionModelPlay, stepsPlay, fleetPlay, plantedPlay]

const usage = `npm run torture -- [options]

  --seed N            what clients, faults and models draw; printed, drawn from the time when it is not given
  --minutes M         how long to play, 10 when it is not given
  --workload W        one of ${namesOf(({ workloads }) => workloads)}
  --fault F           one fault, or one cell of \`steps\`: docs/reference/torture.md has their names
  --part K/N          the Kth of N parts of all pairs of a workload of the fleet and a fault, however long that takes
  --histories FOLDER  keeps the history of every cell there, not only of those with a violation
  --check FILE        asks the checker of a kept history again, and plays nothing
  --json              one document on stdout at the end
  --help              this

Ends with 0 when every cell passed, 8 when one did not, 2 for a call that makes no sense, 130 when broken off.
`

type Wish = Pick<Asked, 'seed' | 'workload' | 'fault' | 'part' | 'histories'> & {
  readonly minutes: number
  /** A kept history to ask the checker about, instead of playing. */
  readonly check: string | undefined
}

/** The exit code, as the usage tells it. */
export async function main(args: readonly string[]): Promise<number> {
  if (args.includes('--help')) {
    process.stdout.write(usage)
    return 0
  }
  let wish: Wish
  let json: boolean
  try {
    ;({ wish, json } = read(args))
  } catch (error) {
    return makesNoSense(error)
  }
  if (wish.check !== undefined) return checkAgain(wish.check)
  say(`seed ${wish.seed}`)
  const stop = new AbortController()
  // All of them, so that no server outlives its supervisor.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => stop.abort())
  const report = new Report()
  const asked = { ...wish, untilMs: Date.now() + wish.minutes * 60_000, signal: stop.signal }
  for (const one of plays) if (isAskedFor(one, wish) && !stop.signal.aborted) await one.play(asked, report)
  const { cells, violations } = report
  if (json) process.stdout.write(`${JSON.stringify({ seed: wish.seed, cells, violations }, null, 2)}\n`)
  for (const one of plays) for (const name of one.workloads) bound(name, one.counts, report)
  if (stop.signal.aborted) {
    say('broken off')
    return 130
  }
  return cells.length > 0 && cells.every(({ passed }) => passed) ? 0 : 8
}

function isAskedFor(one: Play, { workload, fault, part }: Pick<Wish, 'workload' | 'fault' | 'part'>): boolean {
  const { workloads, faults } = one
  if (part !== undefined && one !== fleetPlay) return false
  return (workload === undefined || workloads.includes(workload)) && (fault === undefined || faults.includes(fault))
}

async function checkAgain(path: string): Promise<number> {
  let kept: KeptHistory
  try {
    kept = await readHistory(path)
    known('workload', kept.workload, ({ workloads }) => workloads)
  } catch (error) {
    return makesNoSense(error)
  }
  const { workload, seed, history } = kept
  const violations = workloadOf(workload).check(history)
  say(`${workload}, seed ${seed}: ${violations.length} violations`)
  for (const { kind, explanation } of violations) say(`     ${kind}: ${explanation}`)
  return violations.length === 0 ? 0 : 8
}

/** Nothing found in n is a bound of 3/n on how often it happens, at 95 % confidence; each workload has its own. */
function bound(name: string, counts: string | undefined, { cells, violations }: Report): void {
  const ok = cells.reduce((sum, cell) => sum + (cell.workload === name ? cell.ok : 0), 0)
  if (counts === undefined || ok === 0 || violations.some(({ workload }) => workload === name)) return
  say(`${name}: no violation in ${ok} ${counts}: below ${(3 / ok).toExponential(1)}`)
}

function read(args: readonly string[]): { wish: Wish; json: boolean } {
  const { values } = parseArgs({
    args: [...args],
    options: {
      seed: { type: 'string' },
      minutes: { type: 'string', default: '10' },
      workload: { type: 'string' },
      fault: { type: 'string' },
      part: { type: 'string' },
      histories: { type: 'string' },
      check: { type: 'string' },
      json: { type: 'boolean', default: false },
    },
  })
  const seed = values.seed === undefined ? Date.now() % 2 ** 31 : Number(values.seed)
  const minutes = Number(values.minutes)
  if (!Number.isSafeInteger(seed) || seed < 0) throw new Error(`--seed takes a whole number, not ${values.seed}`)
  if (!(minutes > 0)) throw new Error(`--minutes takes a number above 0, not ${values.minutes}`)
  const { workload, fault, histories: folder } = values
  known('workload', workload, ({ workloads }) => workloads)
  known('fault', fault, ({ faults }) => faults)
  const part = values.part === undefined ? undefined : readPart(values.part)
  if (part !== undefined && !isAskedFor(fleetPlay, { workload, fault, part })) {
    throw new Error('--part is of the pairs of a workload of the fleet and a fault')
  }
  if (!plays.some((one) => isAskedFor(one, { workload, fault, part }))) {
    throw new Error(`${workload} plays all of its faults together, and no ${fault} alone`)
  }
  const histories = { folder: folder ?? 'torture-histories', all: folder !== undefined }
  return { wish: { seed, minutes, workload, fault, part, histories, check: values.check }, json: values.json }
}

function readPart(text: string): Part {
  const [, at = 0, of = 0] = (/^(\d+)\/(\d+)$/.exec(text) ?? []).map(Number)
  if (at < 1 || at > of) throw new Error(`--part takes one of several, as 2/5, not ${text}`)
  return { at, of }
}

function makesNoSense(error: unknown): number {
  say(`${error instanceof Error ? error.message : String(error)}\n--help tells what there is`)
  return 2
}

function known(what: string, name: string | undefined, of: (play: Play) => readonly string[]): void {
  if (name !== undefined && !plays.some((play) => of(play).includes(name)))
    throw new Error(`there is no ${what} ${name}; there is ${namesOf(of)}`)
}

function namesOf(of: (play: Play) => readonly string[]): string {
  return plays.flatMap(of).join(', ')
}
