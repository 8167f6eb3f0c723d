import { nameOf } from '../../src/archive/redo-transaction.ts'
import { present } from '../../src/base/assert.ts'
import { systemClock } from '../../src/base/clock.ts'
import { isHoldfastError } from '../../src/base/errors.ts'
import { silentProgress } from '../../src/base/progress.ts'
import type { ShardName } from '../../src/directory/topology.ts'
import { backUp } from '../../src/fleet/operations/backup.ts'
import { cutoverFleet as embeddedCutover } from '../../src/fleet/operations/cutover-steps.ts'
import { recoveryContext as contextOf } from '../../src/fleet/operations/recovery-context.ts'
import type { Hlc } from '../../src/hlc/hlc.ts'
import { toHlc } from '../../src/hlc/hlc.ts'
import type { CutoverFleet } from '../../src/recovery/cutover-fleet.ts'
import type { RecoveryContext } from '../../src/recovery/recovery.ts'
import type { TestFleet } from './fleet.ts'

export function recoveryContext(fleet: TestFleet): Promise<RecoveryContext> {
  return contextOf(fleet.supervisor, silentProgress)
}

export async function takeBackups(fleet: TestFleet): Promise<void> {
  await backUp(fleet.supervisor, undefined, silentProgress)
}

/** Waits until every archive is closed at a timestamp: then it is a target. */
export async function archivedAt(context: RecoveryContext, timestamp: Hlc): Promise<void> {
  for (const shard of context.archives.keys()) await archivedOn(context, shard, timestamp)
}

/** The same of one archive, where another does not go on. */
export async function archivedOn(context: RecoveryContext, shard: string, timestamp: Hlc): Promise<void> {
  const archive = present(context.archives.get(shard as ShardName), 'the shard has an archive')
  while (((await archive.redoThrough())?.closedTimestamp ?? toHlc(0n)) < timestamp) await systemClock.sleep(20)
}

/** Names of the transactions that no gateway made, as they are in the archive of a shard. */
export async function unattributedOn(context: RecoveryContext, shard: string): Promise<string[]> {
  const names: string[] = []
  for await (const one of context.archives.get(shard as ShardName)?.readRedo() ?? []) {
    if (one.identity.kind === 'unattributed') names.push(nameOf(one))
  }
  return names
}

/** What a cutover asks of the embedded fleet. */
export function cutoverFleet({ supervisor }: TestFleet): CutoverFleet {
  return embeddedCutover(supervisor)
}

/** A gateway learns of a new epoch by being refused, or a moment later by itself. */
export async function onceTold<T>(act: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await act()
    } catch (error) {
      if (!isHoldfastError(error, 'shard_fenced')) throw error
      await systemClock.sleep(20)
    }
  }
}
