import { systemClock } from '../../src/base/clock.ts'
import type { Cell } from '../torture/cell.ts'
import { playCell } from './play.ts'
import { Scene } from './scene.ts'
import type { RunningCell } from './table.ts'

/** The table of steps, played on one fleet; a cell that could not be played gets the next ones a fleet of their own. */
export interface StepsOptions {
  readonly cells: readonly RunningCell[]
  /** Asked before each cell. */
  readonly isOver: () => boolean
  readonly say: (text: string) => void
}

export interface PlayedSteps {
  readonly cells: readonly Cell[]
  readonly violations: readonly { readonly fault: string; readonly kind: string; readonly explanation: string }[]
}

export async function playSteps({ cells, isOver, say }: StepsOptions): Promise<PlayedSteps> {
  const played: Cell[] = []
  const violations: { fault: string; kind: string; explanation: string }[] = []
  let scene: Scene | undefined
  try {
    for (const [index, cell] of cells.entries()) {
      if (isOver()) break
      const started = systemClock.monotonicMs()
      const about = `${index + 1}/${cells.length} ${cell.name}`
      try {
        scene ??= await Scene.open()
        const { evidence, violations: found } = await playCell(scene, cell, `cell-${index}`)
        const { told, faultSeen } = evidence
        const passed = found.length === 0 && faultSeen
        played.push({ ...toCell(cell.name, told.kind), faultSeen, passed })
        const outcome = evidence.found.commits.length > 0 ? 'committed' : 'aborted'
        const seen = faultSeen ? '' : ', the fault was not seen'
        const tookMs = Math.round(systemClock.monotonicMs() - started)
        say(`${passed ? 'ok  ' : 'FAIL'} ${about}: told ${told.kind}${told.code === null ? '' : ` (${told.code})`}, ${outcome}${seen} (${tookMs} ms)`)
        for (const { kind, explanation } of found) {
          say(`     ${kind}: ${explanation}`)
          violations.push({ fault: cell.name, kind, explanation })
        }
      } catch (error) {
        played.push(toCell(cell.name, 'nothing'))
        say(`FAIL ${about}: ${error instanceof Error ? error.stack : String(error)}`)
        await close(scene, say)
        scene = undefined
      }
    }
  } finally {
    await close(scene, say)
  }
  return { cells: played, violations }
}

function toCell(fault: string, told: 'committed' | 'failed' | 'unknown' | 'nothing'): Cell {
  return {
    workload: 'steps',
    fault,
    passed: false,
    faultSeen: false,
    ok: told === 'committed' ? 1 : 0,
    failed: told === 'failed' ? 1 : 0,
    unknown: told === 'unknown' || told === 'nothing' ? 1 : 0,
    overlap: 1,
  }
}

async function close(scene: Scene | undefined, say: (text: string) => void): Promise<void> {
  await scene?.close().catch((error: unknown) => say(`the fleet did not stop in order: ${String(error)}`))
}
