import type { Lsn } from '../postgres/lsn.ts'
import type { ArchiveFolder } from './archive-folder.ts'
import type { TimelineHistory } from './timeline.ts'
import type { ChecksumFailure, WalAudit, WalStep, WalWay, WayQuestion } from './wal-audit.ts'
import { auditWay, damagedKey, findWay } from './wal-audit.ts'
import { listSegments, readBytes, readSegment } from './wal-inventory.ts'
import type { WalExtent } from './wal-records.ts'
import { walExtent } from './wal-records.ts'
import { segmentName, segmentStart } from './wal-segment.ts'

/** Reads what an audit needs to know from the folder of the log. */

export interface WalRange {
  readonly history: TimelineHistory
  readonly from: Lsn
  /** As far as the log goes when left out. */
  readonly to?: Lsn
}

/**
 * How far the log reaches from `from` without a gap. `bytes` reads every segment again and holds it against its
 * checksum; `names` looks at names and at the last segments alone.
 */
export async function auditWal(folder: ArchiveFolder, range: WalRange, depth: 'names' | 'bytes'): Promise<WalAudit> {
  const identity = await folder.requireIdentity()
  const { segmentBytes } = identity
  const inventory = await listSegments(folder, segmentBytes)
  const question: WayQuestion = { ...range, segmentBytes, inventory, damaged: new Set() }
  const failures: ChecksumFailure[] = []
  let way = findWay(question)
  if (depth === 'bytes') {
    const damaged = new Set<string>()
    for (const step of [...way.steps, ...way.beyond]) {
      if (step.state === 'partial') continue
      const found = await readSegment(folder, step, identity)
      if (found.ok) continue
      damaged.add(damagedKey(step.timeline, step.number))
      failures.push({ timeline: step.timeline, segment: segmentName(step, segmentBytes), reason: found.reason })
    }
    if (damaged.size > 0) way = findWay({ ...question, damaged })
  }
  return auditWay(range, way, await extentOf(folder, way, segmentBytes), failures)
}

/** Where the last record of a way ends. A record may begin in the segment before, so the last two are walked. */
export async function extentOf(
  folder: ArchiveFolder,
  way: WalWay,
  segmentBytes: number,
): Promise<WalExtent | undefined> {
  const tail = way.steps.slice(-2)
  const [first] = tail
  if (first === undefined) return undefined
  const parts: Buffer[] = []
  for (const step of tail) parts.push(await readStep(folder, step, segmentBytes))
  return walExtent(Buffer.concat(parts), segmentStart(first.number, segmentBytes), segmentBytes)
}

/** The bytes of a step that belong to the history. */
export async function readStep(folder: ArchiveFolder, step: WalStep, segmentBytes: number): Promise<Buffer> {
  const bytes = await readBytes(folder, step, segmentBytes)
  if (step.limit === null) return bytes
  return bytes.subarray(0, Number(step.limit - segmentStart(step.number, segmentBytes)))
}
