import type { ClosingBlocker } from './closer.ts'

/**
 * When somebody is told of who holds the closed timestamp back (HZ-C7): at once, and of the same one at intervals that double,
 * since a log that says the same every second hides what else it says. No I/O, no time.
 */
export interface ToldBlocker {
  readonly who: string
  /** Since when closings have waited, whoever was first. */
  readonly sinceMs: number
  readonly pauseMs: number
  readonly dueAtMs: number
}

export interface BlockedAlarmLimits {
  readonly firstPauseMs: number
  readonly pauseMsMax: number
}

export function tellBlocker(
  told: ToldBlocker | undefined,
  blocker: Pick<ClosingBlocker, 'pid' | 'gid'>,
  blockedMs: number,
  nowMs: number,
  { firstPauseMs, pauseMsMax }: BlockedAlarmLimits,
): { readonly told: ToldBlocker; readonly isDue: boolean } {
  const who = blocker.gid ?? `process ${blocker.pid}`
  const sinceMs = told?.sinceMs ?? nowMs - blockedMs
  if (told?.who !== who) {
    return { told: { who, sinceMs, pauseMs: firstPauseMs, dueAtMs: nowMs + firstPauseMs }, isDue: true }
  }
  if (nowMs < told.dueAtMs) return { told, isDue: false }
  const pauseMs = Math.min(2 * told.pauseMs, pauseMsMax)
  return { told: { ...told, pauseMs, dueAtMs: nowMs + pauseMs }, isDue: true }
}
