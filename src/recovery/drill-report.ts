import type { CommitSummary, Exclusion } from './exclusion.ts'
import { describeConflict } from './exclusion.ts'
import { formatHlc } from '../hlc/hlc.ts'

/**
 * What a restore leaves behind: six timed gates and three classes of checks. A drill is a restore for the sake of this
 * report; reports are compared over time, since a restore that was possible last month says little about today.
 */
export const gateNames = ['freeze', 'provision', 'base backup', 'replay', 'promote', 'verify'] as const

export type GateName = (typeof gateNames)[number]

export interface Gate<Name extends string = GateName> {
  readonly name: Name
  readonly ok: boolean
  readonly durationMs: number
  /** One sentence for a person. */
  readonly detail: string
}

/** `storage`: is it what was archived. `data`: is it right. `cutover`: could it take over. None is optional. */
export const checkClasses = ['storage', 'data', 'cutover'] as const

export type CheckClass = (typeof checkClasses)[number]

export interface Check {
  readonly name: string
  readonly ok: boolean
  readonly detail: string
  /** Of an invariant: how many rows violate it. */
  readonly violations?: number
}

export type Checks = Readonly<Record<CheckClass, readonly Check[]>>

/** Survives JSON as it is. */
export interface DrillReport {
  /** Of the environment. */
  readonly id: string
  readonly takenAt: string
  readonly target: string
  /** Every commit that is not excluded was rebuilt up to here. A timestamp in decimal. */
  readonly coveredThrough: string
  readonly shards: readonly {
    readonly shard: string
    readonly backupId: string
    readonly stopLsn: string
    /** Applied from the redo stream. */
    readonly redone: number
  }[]
  readonly excluded: readonly { readonly name: string; readonly reason: string }[]
  readonly review: readonly { readonly name: string; readonly touches: readonly string[] }[]
  readonly gates: readonly Gate[]
  /** From the freeze to the last check. */
  readonly rtoMs: number
  /** How far the archives were behind at the freeze: what a disaster then would have lost. */
  readonly rpoMs: number
  readonly checks: Checks
  readonly verdict: 'passed' | 'failed'
}

export function verdictOf(gates: readonly Gate[], checks: Checks): DrillReport['verdict'] {
  const passed = gateNames.every((name) => gates.some((gate) => gate.name === name && gate.ok))
  // A class without a check was not looked at, which is not the same as in order.
  const sound = checkClasses.every((name) => checks[name].length > 0 && checks[name].every(({ ok }) => ok))
  return passed && sound ? 'passed' : 'failed'
}

/** What is left out, for the report: first what was asked, then what went along. */
export function excludedOf(exclusion: Exclusion | null): DrillReport['excluded'] {
  if (exclusion === null) return []
  const asked = exclusion.asked.map((one) => ({ name: one.name, reason: `asked: ${describeCommit(one)}` }))
  return [...asked, ...exclusion.dragged.map((one) => ({ name: one.name, reason: describeConflict(one.because) }))]
}

function describeCommit({ timestamp, action, subject, actor, shards }: CommitSummary): string {
  const what = action === null ? 'without an action' : `${action} ${subject} by ${actor}`
  return `${what} at ${formatHlc(timestamp)} on ${shards.join(', ')}`
}

/** How one report differs from the one before it. */
export interface Drift {
  readonly rtoMs: number
  readonly rpoMs: number
  readonly gates: readonly { readonly name: GateName; readonly byMs: number }[]
  /** Checks that held and hold no more, `class: name`. */
  readonly broken: readonly string[]
}

export function driftBetween(before: DrillReport, after: DrillReport): Drift {
  const durationOf = (report: DrillReport, name: GateName) =>
    report.gates.find((gate) => gate.name === name)?.durationMs ?? 0
  const held = new Set(namesOf(before.checks, true))
  return {
    rtoMs: after.rtoMs - before.rtoMs,
    rpoMs: after.rpoMs - before.rpoMs,
    gates: gateNames.map((name) => ({ name, byMs: durationOf(after, name) - durationOf(before, name) })),
    broken: namesOf(after.checks, false).filter((name) => held.has(name)),
  }
}

function namesOf(checks: Checks, ok: boolean): string[] {
  return checkClasses.flatMap((name) =>
    checks[name].filter((check) => check.ok === ok).map((check) => `${name}: ${check.name}`),
  )
}
