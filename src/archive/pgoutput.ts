import { assert } from '../base/assert.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { toLsn } from '../postgres/lsn.ts'

/**
 * The messages of PostgreSQL's own output plugin, version 1 of its protocol: whole transactions, in commit order, each
 * from `begin` to `commit` without another in between (PostgreSQL, "Logical Replication Message Formats").
 */
export type PgoutputMessage =
  | {
      readonly kind: 'begin'
      /** Where the commit record starts. */
      readonly commitLsn: Lsn
      readonly committedAtMs: number
      readonly xid: number
    }
  | {
      readonly kind: 'commit'
      readonly commitLsn: Lsn
      /** Where the commit record ends. */
      readonly endLsn: Lsn
    }
  | ({ readonly kind: 'relation' } & RelationMessage)
  | { readonly kind: 'insert'; readonly relationId: number; readonly after: Tuple }
  | {
      readonly kind: 'update'
      readonly relationId: number
      /** The whole old row with replica identity FULL; else the old key, when it changed; else null. */
      readonly before: Tuple | null
      readonly after: Tuple
    }
  | { readonly kind: 'delete'; readonly relationId: number; readonly before: Tuple }
  | { readonly kind: 'truncate'; readonly relationIds: readonly number[] }
  | { readonly kind: 'message'; readonly prefix: string; readonly content: Buffer }
  /** Names a type or an origin; nothing here depends on it. */
  | { readonly kind: 'other' }

export interface RelationMessage {
  readonly id: number
  readonly schema: string
  readonly table: string
  readonly replicaIdentity: 'full' | 'key' | 'nothing'
  readonly columns: readonly {
    readonly name: string
    readonly isKey: boolean
    readonly typeId: number
    readonly typeModifier: number
  }[]
}

/** Values in text form. Undefined: a stored value (TOAST) that did not change and was not sent. */
export type Tuple = readonly (string | null | undefined)[]

const postgresEpochMs = 946_684_800_000

/** Throws when the bytes are no message of that protocol: then nothing that follows can be understood either. */
export function parsePgoutput(bytes: Buffer): PgoutputMessage {
  const reader = new MessageReader(bytes)
  const kind = reader.char()
  const message = parseKind(kind, reader)
  assert(reader.atEnd, `message ${kind} of the output plugin ends where it should`)
  return message
}

function parseKind(kind: string, reader: MessageReader): PgoutputMessage {
  switch (kind) {
    case 'B':
      return { kind: 'begin', commitLsn: reader.lsn(), committedAtMs: reader.timeMs(), xid: reader.uint32() }
    case 'C': {
      reader.byte()
      const positions = { commitLsn: reader.lsn(), endLsn: reader.lsn() }
      reader.timeMs()
      return { kind: 'commit', ...positions }
    }
    case 'R':
      return parseRelation(reader)
    case 'I':
      return { kind: 'insert', relationId: reader.uint32(), after: reader.expect('N').tuple() }
    case 'U':
      return parseUpdate(reader)
    case 'D':
      return { kind: 'delete', relationId: reader.uint32(), before: reader.expect('K', 'O').tuple() }
    case 'T': {
      const count = reader.uint32()
      reader.byte()
      return { kind: 'truncate', relationIds: Array.from({ length: count }, () => reader.uint32()) }
    }
    case 'M': {
      reader.byte()
      reader.lsn()
      const prefix = reader.text()
      return { kind: 'message', prefix, content: reader.bytes(reader.uint32()) }
    }
    case 'Y':
    case 'O':
      reader.rest()
      return { kind: 'other' }
    default:
      assert(false, `the output plugin of protocol version 1 sends no message ${JSON.stringify(kind)}`)
  }
}

function parseRelation(reader: MessageReader): PgoutputMessage {
  const [id, schema, table] = [reader.uint32(), reader.text(), reader.text()]
  const identity = reader.char()
  const columns = Array.from({ length: reader.uint16() }, () => ({
    isKey: (reader.byte() & 1) === 1,
    name: reader.text(),
    typeId: reader.uint32(),
    typeModifier: reader.int32(),
  }))
  const replicaIdentity = identity === 'f' ? 'full' : identity === 'n' ? 'nothing' : 'key'
  // An empty schema name stands for pg_catalog.
  return { kind: 'relation', id, schema: schema === '' ? 'pg_catalog' : schema, table, replicaIdentity, columns }
}

function parseUpdate(reader: MessageReader): PgoutputMessage {
  const relationId = reader.uint32()
  const before = reader.peek() === 'N' ? null : reader.expect('K', 'O').tuple()
  return { kind: 'update', relationId, before, after: reader.expect('N').tuple() }
}

class MessageReader {
  readonly #bytes: Buffer
  #at = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  get atEnd(): boolean {
    return this.#at === this.#bytes.length
  }

  peek(): string {
    return this.#bytes.toString('latin1', this.#at, this.#at + 1)
  }

  char(): string {
    return String.fromCharCode(this.byte())
  }

  expect(...chars: string[]): this {
    const found = this.char()
    assert(chars.includes(found), `a row of the output plugin begins with ${chars.join(' or ')}, not ${found}`)
    return this
  }

  byte(): number {
    return this.#bytes.readUInt8(this.#skip(1))
  }

  uint16(): number {
    return this.#bytes.readUInt16BE(this.#skip(2))
  }

  uint32(): number {
    return this.#bytes.readUInt32BE(this.#skip(4))
  }

  int32(): number {
    return this.#bytes.readInt32BE(this.#skip(4))
  }

  lsn(): Lsn {
    return toLsn(this.#bytes.readBigUInt64BE(this.#skip(8)))
  }

  /** Microseconds since 2000, in whole milliseconds since 1970. */
  timeMs(): number {
    return Number(this.#bytes.readBigInt64BE(this.#skip(8)) / 1000n) + postgresEpochMs
  }

  text(): string {
    const end = this.#bytes.indexOf(0, this.#at)
    assert(end >= 0, 'a text of the output plugin ends with a zero byte')
    const text = this.#bytes.toString('utf8', this.#at, end)
    this.#at = end + 1
    return text
  }

  bytes(length: number): Buffer {
    const start = this.#skip(length)
    return Buffer.from(this.#bytes.subarray(start, start + length))
  }

  rest(): void {
    this.#at = this.#bytes.length
  }

  tuple(): Tuple {
    return Array.from({ length: this.uint16() }, () => {
      const kind = this.char()
      switch (kind) {
        case 'n':
          return null
        case 'u':
          return undefined
        case 't': {
          const length = this.uint32()
          const start = this.#skip(length)
          return this.#bytes.toString('utf8', start, start + length)
        }
        default:
          assert(false, `values come as text, not as ${kind}`)
      }
    })
  }

  #skip(length: number): number {
    const start = this.#at
    assert(start + length <= this.#bytes.length, 'a message of the output plugin is not cut short')
    this.#at += length
    return start
  }
}
