import { PassThrough, type Readable } from 'node:stream'
import pg from 'pg'
import { assert, present } from '../../base/assert.ts'
import { HoldfastError } from '../../base/errors.ts'
import type { ConnectionTarget } from '../statement.ts'
import type { Lsn } from '../lsn.ts'
import { parseLsn } from '../lsn.ts'
import { connectForReplication } from '../replication.ts'

/**
 * Receives a base backup over the replication protocol (PostgreSQL 15 and later, "Streaming Replication
 * Protocol", BASE_BACKUP).
 *
 * The answer is two result sets (start position; tablespaces), one COPY whose messages begin with a letter, and a
 * result set with the stop position:
 *
 *   n  a new tar archive begins       d  content of what was begun
 *   m  the manifest begins            p  progress, which nobody asked for here
 *
 * The sink sets the pace: while it is behind, the socket is not read.
 */
export interface BaseBackupSink {
  /** Takes the tar archive of the data directory. Resolves when all of it is stored. */
  archive(content: Readable): Promise<void>
  /** Takes the manifest, after the archive was stored. */
  manifest(bytes: Buffer): Promise<void>
}

export interface BaseBackupOptions {
  /** A role with `replication`. */
  readonly target: ConnectionTarget
  readonly sink: BaseBackupSink
  readonly label: string
  /** `fast` does the checkpoint at once; `spread` spares a busy server and may take minutes. */
  readonly checkpoint: 'fast' | 'spread'
  readonly signal?: AbortSignal
}

export interface BaseBackup {
  /** The log from here to `stopLsn` must be replayed before the backup is consistent. */
  readonly startLsn: Lsn
  readonly stopLsn: Lsn
  readonly timeline: number
  /** PostgreSQL's system identifier: the same on every node of a shard. */
  readonly systemId: string
  readonly manifest: Buffer
}

export async function receiveBaseBackup(options: BaseBackupOptions): Promise<BaseBackup> {
  const { target, label, checkpoint, sink, signal } = options
  signal?.throwIfAborted()
  const client = await connectForReplication(target, 'physical')
  const stop = () => client.connection.stream.destroy(new Error('the base backup was given up'))
  signal?.addEventListener('abort', stop, { once: true })
  try {
    const { rows } = await client.query<{ systemid: string }>('IDENTIFY_SYSTEM')
    const systemId = present(rows[0], 'IDENTIFY_SYSTEM answers a row').systemid
    const command = `BASE_BACKUP (LABEL ${pg.escapeLiteral(label)}, CHECKPOINT '${checkpoint}', WAL false, WAIT false,
      MANIFEST 'yes', MANIFEST_CHECKSUMS 'SHA256')`
    const received = await client.query(new BackupReader(command, sink)).received
    await sink.manifest(received.manifest)
    return { ...received, systemId }
  } catch (error) {
    signal?.throwIfAborted()
    if (error instanceof HoldfastError) throw error
    throw new HoldfastError('server_failed', `the base backup from ${target.host} failed: ${messageOf(error)}`, {
      cause: error,
    })
  } finally {
    signal?.removeEventListener('abort', stop)
    await client.end()
  }
}

type Received = Omit<BaseBackup, 'systemId'>

/** One BASE_BACKUP command, as `pg` drives a query. */
class BackupReader implements pg.Submittable {
  readonly received: Promise<Received>
  readonly #command: string
  readonly #sink: BaseBackupSink
  readonly #results: (string | null)[][][] = []
  readonly #manifest: Buffer[] = []
  #connection: pg.Connection | undefined
  #archive: PassThrough | undefined
  #stored: Promise<void> | undefined
  #inManifest = false
  #resolve: (received: Received | Promise<Received>) => void = () => undefined
  #reject: (error: unknown) => void = () => undefined

  constructor(command: string, sink: BaseBackupSink) {
    this.#command = command
    this.#sink = sink
    this.received = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
  }

  submit(connection: pg.Connection): void {
    this.#connection = connection
    connection.query(this.#command)
  }

  handleRowDescription(): void {
    this.#results.push([])
  }

  handleDataRow(message: { fields: (string | null)[] }): void {
    present(this.#results.at(-1), 'a row follows its description').push(message.fields)
  }

  handleCommandComplete(): void {}

  handleCopyData(message: { chunk: Buffer }): void {
    const { chunk } = message
    const kind = String.fromCharCode(present(chunk[0], 'a message of a base backup has a kind'))
    switch (kind) {
      case 'n':
        return this.#beginArchive()
      case 'm':
        this.#archive?.end()
        this.#inManifest = true
        // A stream that was ended no longer says that it drained, and the socket may be paused for it.
        this.#connection?.stream.resume()
        return
      case 'd':
        // The parser's buffer is used again, so what is kept must be a copy.
        return this.#content(Buffer.from(chunk.subarray(1)))
      case 'p':
        return
      default:
        this.#fail(new Error(`unexpected message ${kind} in a base backup`))
    }
  }

  handleError(error: unknown): void {
    this.#archive?.destroy(error instanceof Error ? error : new Error(String(error)))
    this.#reject(error)
  }

  handleReadyForQuery(): void {
    this.#archive?.end()
    this.#resolve(this.#finish())
  }

  #beginArchive(): void {
    if (this.#archive !== undefined) {
      return this.#fail(new HoldfastError('server_failed', 'the server has tablespaces, which are not supported'))
    }
    this.#archive = new PassThrough({ highWaterMark: 4 << 20 })
    // A sink that has given up no longer listens; its promise tells.
    this.#archive.on('error', () => undefined)
    this.#archive.on('drain', () => this.#connection?.stream.resume())
    this.#stored = this.#sink.archive(this.#archive)
    this.#stored.catch((error: unknown) => this.#fail(error))
  }

  #content(bytes: Buffer): void {
    if (this.#inManifest) {
      this.#manifest.push(bytes)
      return
    }
    if (present(this.#archive, 'content follows the beginning of an archive').write(bytes)) return
    this.#connection?.stream.pause()
  }

  /** The server cannot be told to end a COPY to us: the connection is broken off. */
  #fail(error: unknown): void {
    this.#reject(error)
    this.#connection?.stream.destroy()
  }

  async #finish(): Promise<Received> {
    await this.#stored
    const [start, tablespaces, stop] = this.#results.map((rows) => rows[0])
    assert(start?.[0] && stop?.[0] && tablespaces !== undefined, 'a base backup answers start, tablespaces and stop')
    assert(start[1] === stop[1], 'a base backup of a primary stays on its timeline')
    return {
      startLsn: parseLsn(start[0]),
      stopLsn: parseLsn(stop[0]),
      timeline: Number(start[1]),
      manifest: Buffer.concat(this.#manifest),
    }
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
