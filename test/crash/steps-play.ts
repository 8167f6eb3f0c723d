import type { Cell } from '../torture/cell.ts'
import type { Asked, Play, Report } from '../torture/play.ts'
import { describe, say } from '../torture/play.ts'
import { Sources } from '../torture/workload.ts'
import { playCell } from './play.ts'
import { Scene } from './scene.ts'
import type { RunningCell, Told } from './table.ts'
import { allCells, runningCells } from './table.ts'

const steps = 'steps'

/**
 * The table of steps, actors and actions, on a fleet of its own: the whole of it when it is asked for, and beside other
 * workloads as many cells as a third of the time allows, in an order that the seed gives.
 */
export const stepsPlay: Play = {
  workloads: [steps],
  faults: runningCells().map(({ name }) => name),
  counts: 'commits at a step',
  play,
}

async function play(asked: Asked, report: Report): Promise<void> {
  const isAsked = asked.workload === steps || asked.fault !== undefined
  const untilMs = isAsked ? asked.untilMs : Date.now() + (asked.untilMs - Date.now()) / 3
  const cells = runningCells().filter(({ name }) => asked.fault === undefined || asked.fault === name)
  say(`steps: ${cells.length} cells, of ${[...allCells()].length}; the others have no meaning`)
  let scene: Scene | undefined
  let played = 0
  try {
    for (let round = 0; round === 0 || Date.now() < untilMs; round += 1) {
      for (const cell of shuffled(cells, `${asked.seed} steps ${round}`)) {
        const isOver = Date.now() > untilMs && (round > 0 || !isAsked)
        if (asked.signal.aborted || isOver) return
        played += 1
        scene = await playOne(scene, cell, `cell-${played}`, String(asked.seed), report)
      }
    }
  } finally {
    await close(scene)
  }
}

/** Gives the fleet for the next cell; none after a cell that could not be played. */
async function playOne(
  before: Scene | undefined,
  { name, ...cell }: RunningCell,
  request: string,
  seed: string,
  report: Report,
): Promise<Scene | undefined> {
  let scene = before
  try {
    scene ??= await Scene.open()
    const { evidence, violations } = await playCell(scene, { name, ...cell }, request)
    const { faultSeen, told } = evidence
    const passed = faultSeen && violations.length === 0
    const found = violations.map((one) => ({ ...one, operations: [] }))
    report.add({ ...toCell(name, told.kind), passed, faultSeen }, found, seed)
    return scene
  } catch (error) {
    report.add(toCell(name, 'nothing'), [], seed)
    say(`     it could not be played: ${describe(error)}`)
    await close(scene)
    return undefined
  }
}

function toCell(fault: string, told: Told): Cell {
  return {
    workload: steps,
    fault,
    passed: false,
    faultSeen: false,
    ok: told === 'committed' ? 1 : 0,
    failed: told === 'failed' ? 1 : 0,
    unknown: told === 'unknown' || told === 'nothing' ? 1 : 0,
    overlap: 1,
  }
}

function shuffled<T>(items: readonly T[], seed: string): T[] {
  const below = new Sources(seed).of('order')
  return items
    .map((item) => ({ item, place: below(2 ** 30) }))
    .toSorted((a, b) => a.place - b.place)
    .map(({ item }) => item)
}

async function close(scene: Scene | undefined): Promise<void> {
  await scene?.close().catch((error: unknown) => say(`the fleet did not stop in order: ${String(error)}`))
}
