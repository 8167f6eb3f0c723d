import { checkedReadsFigure } from './checked-reads.ts'
import type { BenchOptions, Figure } from './figure.ts'
import { payrollBurstFigures } from './payroll-burst.ts'
import { readWaitFigures, withForeigner } from './read-waits.ts'
import { sessionReadFigures } from './session-reads.ts'
import { withStand } from './stand.ts'
import { tokenFigures } from './tokens.ts'
import { waitingReadersFigures } from './waiting-readers.ts'

/** What proven reads cost, and how long they wait. */

const burstMs = { whole: 60_000, quick: 10_000 }

export async function benchReads(progress: (text: string) => void, { quick }: BenchOptions): Promise<Figure[]> {
  return [
    ...(await withStand((stand) => sessionReadFigures(stand, progress))),
    ...(await withStand((stand) => readWaitFigures(stand, progress), withForeigner)),
    ...(await withStand(({ fleet }) => payrollBurstFigures(fleet, quick ? burstMs.quick : burstMs.whole, progress))),
    ...tokenFigures(progress),
    ...(await waitingReadersFigures(progress)),
    await checkedReadsFigure(quick, progress),
  ]
}
