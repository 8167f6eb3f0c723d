import type { DrillFacts } from '../evidence/proof-facts.ts'
import { type Hlc, toHlc } from '../hlc/hlc.ts'
import { listReports } from '../recovery/drill-store.ts'

/** The newest rehearsal or restore that rebuilt the history through a timestamp; null when there is none. */
export async function newestDrillThrough(
  drillsDir: string,
  transactionId: string,
  commitTimestamp: Hlc,
): Promise<DrillFacts | null> {
  const reports = await listReports(drillsDir)
  const report = reports.findLast(({ coveredThrough }) => BigInt(coveredThrough) >= commitTimestamp)
  if (report === undefined) return null
  return {
    name: report.id,
    at: report.takenAt,
    coveredThrough: toHlc(BigInt(report.coveredThrough)),
    found: !report.excluded.some(({ name }) => name === transactionId),
    invariants: report.checks.data.flatMap(({ name, violations }) =>
      violations === undefined ? [] : [{ name, violations }],
    ),
    ok: report.verdict === 'passed',
  }
}
