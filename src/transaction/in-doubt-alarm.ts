/**
 * Of which branches somebody is told. A prepared branch holds its locks, the closed timestamp and the vacuum of its whole
 * server, so one that stays is an alarm: each by itself, once an interval. No I/O, no time.
 */
export interface AlarmLimits {
  /** A branch in doubt for this long is told of. One that only a person can settle is told of at once. */
  readonly afterMs: number
  readonly everyMs: number
}

/** By gid, when it was told of. */
export type ToldBranches = ReadonlyMap<string, number>

export interface AlarmCandidate {
  readonly gid: string
  /** Why it is left; undefined while somebody has it under way, who is to tell. */
  readonly left: { readonly ageMs: number; readonly needsPerson: boolean } | undefined
}

/** `present`: every branch that is still there. What is gone is forgotten. */
export function dueAlarms(
  told: ToldBranches,
  present: readonly AlarmCandidate[],
  nowMs: number,
  limits: AlarmLimits,
): { readonly told: ToldBranches; readonly due: ReadonlySet<string> } {
  const due = new Set<string>()
  const kept = new Map<string, number>()
  for (const { gid, left } of present) {
    const before = told.get(gid)
    const isDue = left !== undefined && (left.needsPerson || left.ageMs >= limits.afterMs)
    if (isDue && (before === undefined || nowMs - before >= limits.everyMs)) {
      due.add(gid)
      kept.set(gid, nowMs)
    } else if (before !== undefined) kept.set(gid, before)
  }
  return { told: kept, due }
}
