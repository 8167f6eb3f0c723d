import type { Violation } from '../sim/history.ts'
import type { Cell } from './cell.ts'

/** One of the things that `npm run torture` plays: the fleet's cells, the model, a table of crashes. */
export interface Play {
  /** What `--workload` may name of it. */
  readonly workloads: readonly string[]
  /** What `--fault` may name of it; none where all of its faults are played together. */
  readonly faults: readonly string[]
  /** What its bound is of, e.g. `operations`; undefined where there is none. */
  readonly counts: string | undefined
  /** Plays what is asked for, and returns in order when the time is over or the signal is aborted. */
  play(asked: Asked, report: Report): Promise<void>
}

export interface Asked {
  readonly seed: number
  /** Of the wall clock. Each cell that was asked for is played once all the same. */
  readonly untilMs: number
  readonly signal: AbortSignal
  readonly workload: string | undefined
  readonly fault: string | undefined
  /** Every pair of one of several parts once, however long it takes; undefined for as much as there is time for. */
  readonly part: Part | undefined
  /** Where histories are kept: of cells with a violation, or of all. */
  readonly histories: { readonly folder: string; readonly all: boolean }
}

/** The `at`th, from 1, of `of` parts. */
export interface Part {
  readonly at: number
  readonly of: number
}

export interface Found extends Violation {
  readonly workload: string
  readonly fault: string
  readonly seed: string
}

/** What was played so far. */
export class Report {
  readonly cells: Cell[] = []
  readonly violations: Found[] = []

  add(cell: Cell, found: readonly Violation[], seed: string): void {
    const { workload, fault } = cell
    this.cells.push(cell)
    this.violations.push(...found.map((one) => ({ ...one, workload, fault, seed })))
    tell(cell, found)
  }
}

export const say = (text: string) => void process.stderr.write(`${text}\n`)

/** For a person, with what caused it. */
export function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return error.cause === undefined ? String(error.stack) : `${error.stack}\ncaused by ${describe(error.cause)}`
}

function tell(cell: Cell, found: readonly Violation[]): void {
  const { workload, fault, passed, faultSeen, ok, failed, unknown, overlap } = cell
  const seen = faultSeen ? '' : ', the fault was not seen'
  say(
    `${passed ? 'ok  ' : 'FAIL'} ${workload} / ${fault}: ${ok} ok, ${failed} failed, ${unknown} unknown, ${overlap} during it${seen}`,
  )
  for (const { kind, explanation } of found.slice(0, 10)) say(`     ${kind}: ${explanation}`)
}
