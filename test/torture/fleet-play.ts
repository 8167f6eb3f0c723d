import type { Played } from './cell.ts'
import { runCell, unplayed } from './cell.ts'
import type { Fault } from './fault.ts'
import { faultsOf } from './faults.ts'
import { keepHistory } from './history-file.ts'
import type { Asked, Play, Report } from './play.ts'
import { describe, say } from './play.ts'
import { Stand } from './stand.ts'
import type { Kind } from './workload.ts'
import { Sources } from './workload.ts'
import { workloads } from './workloads.ts'

const faultMs = 3_000
const roundsForMs = 90_000

/** Every workload under every fault, again and again with other seeds while there is time. */
export const fleetPlay: Play = {
  workloads: [...workloads.keys()],
  faults: faultsOf().map(({ name }) => name),
  counts: 'operations',
  play,
}

async function play(asked: Asked, report: Report): Promise<void> {
  let stand: Stand | undefined
  let played = 0
  const untilMs = Date.now() + (asked.untilMs - Date.now()) * shareOfTime(asked)
  const isWhole = asked.part !== undefined
  const isOver = () => asked.signal.aborted || (!isWhole && played > 0 && Date.now() > untilMs)
  try {
    for (let round = 0; !isOver() && !(isWhole && round > 0); round += 1) {
      for (const [name, kind, fault] of pairs(asked, round)) {
        if (isOver()) break
        const seed = `${asked.seed} ${name} ${fault.name} ${round}`
        played += 1
        try {
          stand ??= await open()
          const sources = new Sources(seed)
          const { signal } = asked
          const cell = await runCell({ stand, name, kind, fault, sources, faultMs, roundsForMs, signal })
          report.add(cell.cell, cell.violations, seed)
          await keep(asked, seed, cell)
        } catch (error) {
          // A cell that could not be played is one that did not pass; the next ones get a fleet of their own.
          report.add(unplayed(name, fault.name), [], seed)
          say(`     it could not be played: ${describe(error)}`)
          await close(stand)
          stand = undefined
        }
      }
    }
  } finally {
    await close(stand)
  }
  say(`${played} cells, of ${pairs(asked, 0).length} pairs of a workload and a fault`)
}

/** The planted bugs come after it, when they are asked for as well. */
const shareOfTime = ({ workload, fault }: Asked) => (workload === undefined && fault === undefined ? 0.8 : 1)

/** In an order that the seed gives, so that a short time with another seed plays others. */
function pairs(asked: Asked, round: number): (readonly [string, Kind, Fault])[] {
  const below = new Sources(`${asked.seed} order ${round}`).of('pairs')
  const isOfPart = (_: unknown, at: number) => asked.part === undefined || at % asked.part.of === asked.part.at - 1
  return [...workloads]
    .filter(([name]) => asked.workload === undefined || asked.workload === name)
    .flatMap(([name, kind]) =>
      faultsOf()
        .filter((fault) => asked.fault === undefined || asked.fault === fault.name)
        .map((fault) => ({ at: below(2 ** 31), pair: [name, kind, fault] as const })),
    )
    .toSorted((a, b) => a.at - b.at)
    .map(({ pair }) => pair)
    .filter(isOfPart)
}

async function keep(asked: Asked, seed: string, { cell, violations, history }: Played): Promise<void> {
  const { folder, all } = asked.histories
  if (!all && violations.length === 0) return
  const { workload, fault } = cell
  say(`     its history is ${await keepHistory(folder, { workload, fault, seed, history })}`)
}

function open(): Promise<Stand> {
  say('a fleet of two shards in three regions')
  return Stand.open()
}

async function close(stand: Stand | undefined): Promise<void> {
  if (stand === undefined) return
  say('stop')
  await stand.close().catch((error: unknown) => say(`the fleet did not stop in order: ${String(error)}`))
}
