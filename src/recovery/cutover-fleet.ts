import { HoldfastError } from '../base/errors.ts'
import type { HistoryId, ShardName } from '../directory/topology.ts'
import type { ConnectionTarget } from '../postgres/statement.ts'
import { withConnection } from '../postgres/postgres.ts'
import type { FencedShard } from './cutover-fence.ts'
import type { ShardStanding } from './cutover-plan.ts'
import { fenceEpoch } from './cutover-plan.ts'
import type { EnvironmentServer } from './restore-shard.ts'
import * as store from './restore-store.ts'

/** What a cutover asks of the fleet whose shards it replaces. */
export interface CutoverFleet {
  standing(shard: ShardName): FleetStanding
  /** Tells everybody that the shard takes traffic where it is, at this epoch. Its data says so already. */
  reopened(shard: ShardName, epoch: ShardStanding['epoch']): Promise<void>
  /**
   * Throws `check_failed` when taking a shard in would bring it migrations of the application that these places never had; of a
   * shard that is gone, what the environment has.
   */
  requireRolledOut(
    places: readonly { readonly shard: ShardName; readonly isAlive: boolean; readonly target: ConnectionTarget }[],
  ): Promise<void>
  /**
   * Stops the shard's old servers for good and takes this one in as its primary, under the fleet's own settings, with the
   * shard still closed. Its data directory stays where it is.
   */
  adopt(adoption: Adoption): Promise<void>
  /** Builds the followers, waits until commits wait for them, and opens the shard behind a barrier. */
  open(shard: ShardName, epoch: ShardStanding['epoch']): Promise<void>
}

/** A shard as the fleet has it now. */
export interface FleetStanding extends ShardStanding {
  readonly historyId: HistoryId
  readonly primary: ConnectionTarget
  /** Its next history is decided, and only to be opened. */
  readonly isPromoting: boolean
}

export interface Adoption {
  readonly shard: ShardName
  readonly epoch: ShardStanding['epoch']
  readonly historyId: HistoryId
  readonly server: EnvironmentServer
}

/**
 * How a shard stands when its cutover begins. Throws `node_unavailable` while it is promoted: what goes on by itself (V6) would
 * open it in the middle. One whose primary is gone has nobody who could.
 */
export function standingOf(fleet: CutoverFleet, name: ShardName): ShardStanding {
  const { shard, epoch, isAlive, isPromoting } = fleet.standing(name)
  if (isAlive && isPromoting) {
    throw new HoldfastError('node_unavailable', `${shard} is being promoted`, {
      hint: 'that goes on by itself; run the cutover once the shard is open',
      detail: { shard },
    })
  }
  return { shard, epoch, isAlive }
}

export function toFenced(fleet: CutoverFleet, standing: ShardStanding): FencedShard {
  const { primary } = fleet.standing(standing.shard)
  return { shard: standing.shard, epoch: fenceEpoch(standing), target: primary }
}

export async function reopen(fleet: CutoverFleet, { shard, epoch, target }: FencedShard): Promise<void> {
  const isOpen = await withConnection(target, (admin) => store.reopenShard(admin, epoch))
  // One that was not fenced yet goes on at the epoch that everybody knows.
  if (isOpen) await fleet.reopened(shard, epoch)
}
