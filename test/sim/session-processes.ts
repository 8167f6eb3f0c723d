import { present } from '../../src/base/assert.ts'
import type { HistoryRow } from '../../src/session/fork-point.ts'
import type { Hlc } from '../../src/hlc/hlc.ts'
import type { Remembered } from '../../src/reading/expectation.ts'
import { greatestOf, remember, unbounded } from '../../src/reading/expectation.ts'
import type { ProofRow } from '../../src/reading/read-store.ts'
import type { LsnBeforeSnapshot, ReadStep } from '../../src/session/session.ts'
import { lsnAfterSnapshot, lsnBeforeSnapshot } from '../../src/session/session.ts'
import { lsn } from '../support/session-values.ts'
import type { Plant } from './session-plants.ts'
import type { Server, ShardWorld, Shown } from './session-world.ts'
import { shownBy } from './session-world.ts'

/** A snapshot of the model, and what is known of where its server was. */
export interface Opened {
  readonly shown: Shown
  readonly positionBefore: LsnBeforeSnapshot
  readonly proof: ProofRow
  /** As the server had it before the snapshot was taken. */
  readonly replayedBefore: number
  readonly greatestTimestamp: Hlc
}

/** One process on each server of the model, and what it has told so far. */
export class Processes {
  readonly #told = new Map<Server, Remembered>()
  readonly #plant: Plant | undefined

  constructor(plant: Plant | undefined) {
    this.#plant = plant
  }

  toldBy(world: ShardWorld, server: Server): Remembered | undefined {
    if (this.#plant !== 'S6: what the process of another node has told') return this.#told.get(server)
    const all = world.servers.flatMap((one) => this.#told.get(one) ?? [])
    return all.toSorted((a, b) => Number(b.replayed - a.replayed))[0]
  }

  /** Lets `fork` happen; a server that loses what it had received starts again, or every one. */
  endBy(world: ShardWorld, fork: () => void, everywhere: boolean): void {
    const before = new Map(world.servers.map((server) => [server, server.received]))
    fork()
    if (this.#plant === 'S6: what is remembered outlives its process') return
    for (const server of world.servers) {
      if (everywhere || server.received < (before.get(server) ?? 0)) this.#told.delete(server)
    }
  }

  /**
   * Takes a snapshot, while the server receives and replays; of a lean one the position is what the process has told. What
   * it is asked for is of the histories and the transactions that `of` makes of what it shows.
   */
  open(
    world: ShardWorld,
    server: Server,
    noise: number,
    { lean, of }: { readonly lean: boolean; readonly of: (shown: Shown) => Pick<ProofRow, 'histories' | 'visible'> },
  ): Opened {
    const told = this.toldBy(world, server)
    const replayed = () => (server.isPrimary ? server.log.length : server.replayed)
    const replayedBefore = replayed()
    world.replay(server, noise % 3)
    const shown = shownBy(server)
    world.receive(server, noise % 2)
    world.replay(server, noise % 4)
    const inside = this.#plant === 'HZ-T1: replay position read inside the snapshot'
    const position = lsn(inside ? replayed() : replayedBefore)
    const positionBefore =
      lean && told !== undefined
        ? lsnBeforeSnapshot({ lsn: told.replayed, readAt: -1, snapshotAt: 1 })
        : lsnBeforeSnapshot({ lsn: position, readAt: 0, snapshotAt: 1 })
    const follows = !server.isPrimary
    const positionAfter = lsn(follows ? server.received : server.log.length)
    const isBounded = follows && positionAfter <= (told ?? unbounded).through
    const { histories, visible } = of(shown)
    const proof: ProofRow = {
      shard: world.name,
      follows,
      replayed: lsn(replayed()),
      positionAfter,
      histories,
      placements: new Map(),
      visible,
      closedTimestamp: shown.closedTimestamp,
      greatestTimestamp: isBounded ? undefined : shown.greatestTimestamp,
    }
    const greatestTimestamp = greatestOf(proof, told ?? unbounded)
    const contained = this.#plant === 'R6: what was received bounds what is shown' ? positionAfter : positionBefore
    this.#told.set(server, remember(proof, contained as LsnBeforeSnapshot, greatestTimestamp, told))
    return { shown, positionBefore, proof, replayedBefore, greatestTimestamp }
  }

  /** What a session has seen with a snapshot. */
  stepOf(world: ShardWorld, server: Server, { shown, proof, replayedBefore, greatestTimestamp }: Opened): ReadStep {
    const byReplay = this.#plant === 'HZ-T1: replay position taken as what a read has shown' && proof.follows
    const { historyId, epoch } = present(
      shown.histories.at(this.#plant === 'HZ-T3: no history of our own' ? 0 : -1),
      'every snapshot shows a history',
    )
    const position = byReplay ? lsn(replayedBefore) : proof.positionAfter
    return {
      shard: world.name,
      historyId,
      epoch,
      placementVersion: 1,
      isPrimary: server.isPrimary,
      position: lsnAfterSnapshot({ lsn: position, readAt: 2, snapshotAt: 1 }),
      closedTimestamp: shown.closedTimestamp,
      greatestTimestamp,
    }
  }
}

/** What a lean snapshot is not asked for. */
export const untold = (histories: readonly HistoryRow[]): Pick<ProofRow, 'histories' | 'visible'> => ({
  histories: histories.map((row) => (row.fork === undefined ? row : { ...row, fork: { ...row.fork, leftOut: [] } })),
  visible: new Set(),
})
