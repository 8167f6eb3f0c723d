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
 * The sink sets the pace: while it is behind, the socket is not read. A server that sends nothing although it is read is given up:
 * the way to it may be cut, and a backup that waits would wait for ever.
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
  /** How long the server may send nothing once it has begun. */
  readonly silentMsMax?: number
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

/** As long as PostgreSQL's own receivers wait by default. */
const silentMsMaxDefault = 60_000
/** It begins with a checkpoint, in which a server with much to write says nothing for minutes. */
const checkpointMsMax = 600_000

/** Throws `server_failed`; the sink's own error; the signal's reason. Each time it can be begun anew. */
export async function receiveBaseBackup(options: BaseBackupOptions): Promise<BaseBackup> {
  const { target, label, checkpoint, sink, signal, silentMsMax = silentMsMaxDefault } = options
  signal?.throwIfAborted()
  const client = await connectForReplication(target, 'physical')
  const stop = () => client.connection.stream.destroy(new Error('the base backup was given up'))
  signal?.addEventListener('abort', stop, { once: true })
  const silence = new Silence(silentMsMax, (ms) =>
    client.connection.stream.destroy(new Error(`the server sent nothing for ${ms} ms`)),
  )
  try {
    silence.listen()
    const { rows } = await client.query<{ systemid: string }>('IDENTIFY_SYSTEM')
    const systemId = present(rows[0], 'IDENTIFY_SYSTEM answers a row').systemid
    const command = `BASE_BACKUP (LABEL ${pg.escapeLiteral(label)}, CHECKPOINT '${checkpoint}', WAL false, WAIT false,
      MANIFEST 'yes', MANIFEST_CHECKSUMS 'SHA256')`
    silence.listen(checkpointMsMax)
    const received = await client.query(new BackupReader(command, sink, silence)).received
    await sink.manifest(received.manifest)
    return { ...received, systemId }
  } catch (error) {
    signal?.throwIfAborted()
    if (error instanceof HoldfastError) throw error
    throw new HoldfastError('server_failed', `the base backup from ${target.host} failed: ${messageOf(error)}`, {
      cause: error,
    })
  } finally {
    silence.ignore()
    signal?.removeEventListener('abort', stop)
    await client.end()
  }
}

type Received = Omit<BaseBackup, 'systemId'>

/** Ends a connection on which nothing comes for too long, while somebody listens. */
class Silence {
  readonly #msMax: number
  readonly #end: (afterMs: number) => void
  #timer: NodeJS.Timeout | undefined

  constructor(msMax: number, end: (afterMs: number) => void) {
    this.#msMax = msMax
    this.#end = end
  }

  listen(ms = this.#msMax): void {
    this.ignore()
    this.#timer = setTimeout(() => this.#end(ms), ms)
  }

  /** Also what was on its way when somebody stopped to listen comes. */
  heard(): void {
    if (this.#timer !== undefined) this.listen()
  }

  ignore(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }
}

/** One BASE_BACKUP command, as `pg` drives a query. */
class BackupReader implements pg.Submittable {
  readonly received: Promise<Received>
  readonly #command: string
  readonly #sink: BaseBackupSink
  readonly #silence: Silence
  readonly #results: (string | null)[][][] = []
  readonly #manifest: Buffer[] = []
  #connection: pg.Connection | undefined
  #archive: PassThrough | undefined
  #stored: Promise<void> | undefined
  #inManifest = false
  #resolve: (received: Received | Promise<Received>) => void = () => undefined
  #reject: (error: unknown) => void = () => undefined

  constructor(command: string, sink: BaseBackupSink, silence: Silence) {
    this.#command = command
    this.#sink = sink
    this.#silence = silence
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
    this.#silence.heard()
    this.#results.push([])
  }

  handleDataRow(message: { fields: (string | null)[] }): void {
    present(this.#results.at(-1), 'a row follows its description').push(message.fields)
  }

  handleCommandComplete(): void {}

  handleCopyData(message: { chunk: Buffer }): void {
    const { chunk } = message
    this.#silence.heard()
    const kind = String.fromCharCode(present(chunk[0], 'a message of a base backup has a kind'))
    switch (kind) {
      case 'n':
        return this.#beginArchive()
      case 'm':
        this.#archive?.end()
        this.#inManifest = true
        // A stream that was ended no longer says that it drained, and the socket may be paused for it.
        this.#goOn()
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
    // What is left is to be stored.
    this.#silence.ignore()
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
    this.#archive.on('drain', () => this.#goOn())
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
    this.#silence.ignore()
  }

  #goOn(): void {
    const stream = this.#connection?.stream
    if (stream === undefined || stream.destroyed) return
    stream.resume()
    this.#silence.listen()
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
