import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { DrillFacts } from '../evidence/proof-facts.ts'
import { type Hlc, toHlc } from '../hlc/hlc.ts'
import { readJsonFile } from './home.ts'

/** What a rehearsal leaves for evidence: how far the history went that it rebuilt, and what its checks said. */
export interface DrillSummary {
  readonly id: string
  readonly at: string
  /** Decimal, as timestamps are in JSON. */
  readonly coveredThrough: string
  readonly invariants: readonly { readonly name: string; readonly violations: number }[]
  readonly ok: boolean
}

/** The newest rehearsal that rebuilt the history through a timestamp; null when there is none. */
export async function newestDrillThrough(drillsDir: string, commitTimestamp: Hlc): Promise<DrillFacts | null> {
  const names = (await readdir(drillsDir))
    .filter((name) => name.endsWith('.evidence.json'))
    .toSorted()
    .toReversed()
  for (const name of names) {
    const summary = (await readJsonFile(join(drillsDir, name))) as DrillSummary | undefined
    if (summary === undefined) continue
    const coveredThrough = toHlc(BigInt(summary.coveredThrough))
    if (coveredThrough < commitTimestamp) continue
    return {
      name: summary.id,
      at: summary.at,
      coveredThrough,
      found: true,
      invariants: summary.invariants,
      ok: summary.ok,
    }
  }
  return null
}
