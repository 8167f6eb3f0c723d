import type { ShardArchive } from '../archive/archive.ts'
import type { Clock } from '../base/clock.ts'
import type { Progress } from '../base/progress.ts'
import type { OnStep } from '../base/step.ts'
import type { Directory } from '../directory/directory.ts'
import type { Regions } from '../directory/policy.ts'
import type { RegionName, ShardName } from '../directory/topology.ts'
import type { Release } from '../postgres/release.ts'
import type { ServerHost } from '../postgres/server/server-host.ts'
import type { ServerUser } from '../postgres/server/server-user.ts'
import type { Invariant } from './invariant.ts'
import type { Delivery } from './invariant-check.ts'
import type { AllowList } from './invariant-place.ts'
import type { MigrationFiles } from './redo-migration.ts'

/**
 * Recovery rebuilds the history of a fleet up to a point, or without some transactions, and proves that it did.
 *
 * PostgreSQL restores one server to one position of its log. That is not enough for a fleet. The logs of two shards have
 * no common position. Within one log, transactions commit in another order than their timestamps have. A branch may be
 * prepared before a position and decided behind it. And nobody wants to lose the approvals of 10:15 because a clean-up job went
 * wrong at 10:14. So a restore here is: a *cut*, one stop per shard; the *physical* replay up to it, by PostgreSQL; the
 * *decision* over what is prepared there; the *redo* of what belongs and lies behind the stop, row by row from the redo stream;
 * and *checks*, since a restore that nobody verified is a hope. `docs/protocols/recovery.md` has the protocol.
 *
 * Owns restored environments, until a cutover hands their servers to the fleet. Talks to the archives of all shards, to the
 * server host, and at a cutover to the fleet. Chooses no region, judges no policy, and changes nothing in the fleet before a
 * cutover.
 *
 *   R1  The stop of a shard is the start of the first commit in its log that must not be there, exclusive. A stop is a
 *       position, explicit and verified; never a time, an xid, or the end that happens to be reached.
 *   R2  What is restored is exactly what is wanted: on every shard, all of the transactions at or before the target but
 *       those left out, and none of the others. A decision goes and stays with its transaction.
 *   R3  A prepared branch is committed when a restored record or the redo streams show it decided so before the
 *       target, else rolled back. Decided before anything is redone, since it holds the locks of its rows.
 *   R4  A transaction is redone at most once, in the commit order of its shard, with its own id and timestamp, and only onto the rows
 *       as they were. Anything else stops the restore.
 *   R5  What is left out is closed: no transaction stays that changed, or refers to, what is gone; a global one goes
 *       whole. What was not asked for needs a person's word.
 *   R6  A target lies at or below what all archives are known to hold, or is refused with that bound.
 *   R7  Rows of a tenant go to no region, not even for a check, where the law does not let them be.
 *   R8  An environment takes no traffic, sends no effect and archives nothing, until a cutover.
 *   R9  A cutover loses no transaction that was acknowledged, but those left out: the old epoch is closed first, then what
 *       came since is redone, then the environment is checked, and only then it is opened.
 *
 *   R10 A change of the schema is made anew where the redo stream has the row of its migration, from the very file, before what
 *       comes behind it. One that no migration made, or whose file is not known, stops the redo.
 *   R11 An environment stays until it is dropped, with its servers and what they hold. None is dropped that the fleet runs on,
 *       or that a cutover has begun with.
 *   R12 What a restore, a dry run and a cutover hold in memory does not grow with the redo stream. What they need of it again they
 *       read again from the archive, which has it as it was.
 *
 * HAZARD: other DDL, large objects and sequences that no column draws from are not in the redo stream (HZ-R1).
 */
export interface RecoveryContext {
  readonly fleet: string
  readonly host: ServerHost
  /** Whom the data directories of servers belong to. */
  readonly user: ServerUser | undefined
  /** Of every shard of the fleet. */
  readonly archives: ReadonlyMap<ShardName, ShardArchive>
  /** Where the restored server of each shard stands: legal for a replica of what the shard holds. */
  readonly environmentRegions: ReadonlyMap<ShardName, RegionName>
  /** What the fleet's own servers run with. */
  readonly serverSettings: Readonly<Record<string, string>>
  /** Where environments are registered. */
  readonly environmentsDir: string
  /** Where reports are kept. */
  readonly drillsDir: string
  readonly directory: Directory
  readonly regions: Regions
  /** From the derived domains of the configuration. */
  readonly allowLists: readonly AllowList[]
  readonly invariants: readonly Invariant[]
  /** Every line of the delivery journals. */
  readonly deliveries: () => Promise<readonly Delivery[]>
  /** What a restored server is brought to where its redo crosses an upgrade (R10). */
  readonly release: Release
  /** Those that ran, or may have run, of a release and of domains. */
  readonly migrationFiles: MigrationFiles
  /** Passwords of the roles that a cutover will need. */
  readonly rolePasswords: Readonly<Record<string, string>>
  readonly clock: Clock
  readonly onStep: OnStep
  readonly progress: Progress
  /** Of a restore that makes way. */
  readonly signal?: AbortSignal
}
