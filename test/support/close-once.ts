import { systemClock } from '../../src/base/clock.ts'
import { noStep } from '../../src/base/step.ts'
import type { Hlc } from '../../src/hlc/hlc.ts'
import type { Connection } from '../../src/postgres/connection.ts'
import type { ClosingBlocker } from '../../src/transaction/closer.ts'
import { Closer } from '../../src/transaction/closer.ts'

/** Closes what a shard's clock reads, without being elected, and gives what is closed then. */
export async function closeOnce(
  connection: Connection,
  shard: string,
  onBlocked: (blocker: ClosingBlocker) => void = () => {},
): Promise<Hlc> {
  const where = { shard }
  const closer = new Closer(connection, { clock: systemClock, onStep: noStep, where, onBlocked, blockedAfterMs: 5 })
  for (await closer.beat(true); closer.isWaiting; await closer.beat(false)) await systemClock.sleep(1)
  return closer.closed
}
