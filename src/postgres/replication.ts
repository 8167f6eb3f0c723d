import pg from 'pg'
import { assert, present } from '../base/assert.ts'
import type { Clock } from '../base/clock.ts'
import type { ConnectionTarget } from './statement.ts'
import { ConnectionLost, connectFailure, ServerError } from './failure.ts'
import { clientConfig } from './driver.ts'
import type { Lsn } from './lsn.ts'
import { formatLsn, parseLsn } from './lsn.ts'
import { ReplicationStream } from './replication-stream.ts'
import { sqlState } from './sqlstate.ts'

/** A connection in PostgreSQL's replication mode (PostgreSQL, "Streaming Replication Protocol"). */
export class ReplicationConnection {
  readonly #client: pg.Client
  readonly #clock: Clock

  private constructor(client: pg.Client, clock: Clock) {
    this.#client = client
    this.#clock = clock
  }

  /**
   * Connects a role that has `replication`. `physical` streams the log of the server; `logical` decodes the changes of
   * the target's database. Rejects with `ConnectionLost` (not sent) or `ServerError`.
   */
  static async connect(
    target: ConnectionTarget,
    mode: 'physical' | 'logical',
    clock: Clock,
  ): Promise<ReplicationConnection> {
    return new ReplicationConnection(await connectForReplication(target, mode), clock)
  }

  async identifySystem(): Promise<{ systemId: string; timeline: number; flushLsn: Lsn }> {
    const [systemId, timeline, position] = await this.#row('IDENTIFY_SYSTEM')
    assert(systemId && timeline && position, 'the system has an identifier, a timeline and a position')
    return { systemId, timeline: Number(timeline), flushLsn: parseLsn(position) }
  }

  /** The server's `.history` file of a timeline. Throws `ServerError` when it has none. */
  async timelineHistory(timeline: number): Promise<string> {
    const row = await this.#row(`TIMELINE_HISTORY ${timeline}`)
    return present(row[1], 'a timeline history has content')
  }

  async walSegmentBytes(): Promise<number> {
    const [size] = await this.#row('SHOW wal_segment_size')
    const match = /^(\d+)(MB|GB)$/.exec(present(size, 'the setting has a value'))
    assert(match?.[1], `the segment size comes in MB or GB, not as ${size}`)
    return Number(match[1]) * (match[2] === 'GB' ? 1 << 30 : 1 << 20)
  }

  async serverMajor(): Promise<number> {
    const [version] = await this.#row('SHOW server_version_num')
    return Math.trunc(Number(version) / 10_000)
  }

  /** From where a physical slot keeps the log; undefined when there is no such slot, or it keeps nothing. */
  async physicalSlotStart(slot: string): Promise<Lsn | undefined> {
    const [, restartLsn] = await this.#row(`READ_REPLICATION_SLOT ${identifier(slot)}`)
    return restartLsn == null ? undefined : parseLsn(restartLsn)
  }

  /** Keeps the log from now on. Throws `ServerError` (`duplicateObject`) when the slot exists. */
  async createPhysicalSlot(slot: string): Promise<void> {
    await this.#row(`CREATE_REPLICATION_SLOT ${identifier(slot)} PHYSICAL (RESERVE_WAL)`)
  }

  /** Lets go of what a slot keeps. Nothing happens when there is no such slot. */
  async dropSlot(slot: string): Promise<void> {
    try {
      await this.#row(`DROP_REPLICATION_SLOT ${identifier(slot)}`)
    } catch (error) {
      if (!(error instanceof ServerError && error.sqlState === sqlState.undefinedObject)) throw error
    }
  }

  /**
   * Makes a slot that decodes with pgoutput from the position that comes back; waits for the transactions of this
   * moment to end. From PostgreSQL 17 on, followers that synchronise slots carry it too.
   */
  async createLogicalSlot(slot: string): Promise<Lsn> {
    const failover = (await this.serverMajor()) >= 17 ? ', FAILOVER true' : ''
    const [, consistentPoint] = await this.#row(
      `CREATE_REPLICATION_SLOT ${identifier(slot)} LOGICAL pgoutput (SNAPSHOT 'nothing', TWO_PHASE false${failover})`,
    )
    return parseLsn(present(consistentPoint, 'a new slot has a consistent point'))
  }

  /** Lets followers that synchronise slots carry this one, however it was made. From PostgreSQL 17 on. */
  async carryOverFailover(slot: string): Promise<void> {
    await this.#row(`ALTER_REPLICATION_SLOT ${identifier(slot)} (FAILOVER true)`)
  }

  /** Streams the log of one timeline from a position. Rejects with `ServerError` when the server has it no more. */
  startPhysical(slot: string, from: Lsn, timeline: number): Promise<ReplicationStream> {
    return this.#start(`START_REPLICATION SLOT ${identifier(slot)} PHYSICAL ${formatLsn(from)} TIMELINE ${timeline}`)
  }

  /** Streams decoded transactions that end behind a position, or behind the slot's own where that is later. */
  startLogical(slot: string, from: Lsn, options: Readonly<Record<string, string>>): Promise<ReplicationStream> {
    const list = Object.entries(options).map(([name, value]) => `"${name}" ${pg.escapeLiteral(value)}`)
    return this.#start(`START_REPLICATION SLOT ${identifier(slot)} LOGICAL ${formatLsn(from)} (${list.join(', ')})`)
  }

  /** Ends the session at once; a stream that still runs breaks off. */
  close(): void {
    this.#client.connection.stream.destroy()
  }

  async #row(command: string): Promise<(string | null)[]> {
    try {
      const asText = { getTypeParser: () => (value: string) => value }
      const { rows } = await this.#client.query<(string | null)[]>({ text: command, rowMode: 'array', types: asText })
      return rows[0] ?? []
    } catch (error) {
      throw commandFailure(error, command)
    }
  }

  async #start(command: string): Promise<ReplicationStream> {
    const stream = new ReplicationStream(command, this.#client.connection, this.#clock)
    this.#client.query(stream)
    try {
      await stream.started
    } catch (error) {
      throw commandFailure(error, command)
    }
    return stream
  }
}

const connectWithinMs = 10_000

/** The driver's connection in replication mode. Rejects with `ConnectionLost` (not sent) or `ServerError`. */
export async function connectForReplication(
  target: ConnectionTarget,
  mode: 'physical' | 'logical',
): Promise<pg.Client> {
  const replication = mode === 'physical' ? 'true' : 'database'
  const config = { ...clientConfig(target, connectWithinMs), pipeline: false, replication }
  const client = new pg.Client(config)
  // A broken connection also fails the command that runs on it, which is where it is handled.
  client.on('error', () => undefined)
  try {
    await client.connect()
  } catch (error) {
    throw connectFailure(error, target)
  }
  return client
}

function commandFailure(error: unknown, command: string): Error {
  if (error instanceof pg.DatabaseError) return new ServerError(error)
  return new ConnectionLost(`the connection ended in ${command.split(' ')[0]}`, true, error)
}

function identifier(slot: string): string {
  assert(/^[a-z0-9_]{1,63}$/.test(slot), `a slot's name is of lower-case letters, digits and underscores: ${slot}`)
  return slot
}
