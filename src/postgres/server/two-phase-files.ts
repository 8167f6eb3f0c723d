import { readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { present } from '../../base/assert.ts'
import { HoldfastError } from '../../base/errors.ts'
import type { Lsn } from '../lsn.ts'
import { parseLsn } from '../lsn.ts'

/**
 * A branch that was voted for must be there when its server comes back (HZ-X8).
 *
 * PostgreSQL keeps a prepared transaction in the log, and a checkpoint writes the older ones into files as well. A recovery that
 * begins at an earlier checkpoint, as after a crash in the middle of the later one, or from a base backup that outlasted it, finds
 * files of transactions which its checkpoint has not heard of. It means to remove them, since it is about to meet their PREPARE in
 * the log. Version 17 and 18 look for them by a wrong name, leave them, and then take the PREPARE for a second copy of what was
 * loaded: the server opens without the branch, and its rows pass for those of an aborted transaction.
 *
 * So what PostgreSQL means to remove is removed before it starts: the files of every transaction from the first on that was not
 * assigned yet at the checkpoint where recovery begins. None of them is lost, for the log from that checkpoint on has their PREPARE.
 * Files of earlier versions have shorter names, and are found by their server.
 */

const controlVersions: ReadonlySet<number> = new Set([1700, 1800])
/** Where `pg_control` has them on every platform with 64-bit values aligned by eight (`catalog/pg_control.h`). */
const controlOffset = { version: 8, checkpoint: 40 } as const
/** In the checkpoint of the control file and of the log alike. */
const nextXidOffset = 24
const checkpointBytesMin = nextXidOffset + 8

const pageBytes = 8192n
const pageHeaderBytes = { short: 24n, long: 40n } as const
const recordHeaderBytes = 24
const recordOffset = { info: 16, resourceManager: 17 } as const
/** Of the log itself: what a shutdown and what a running server writes. */
const checkpointKinds: ReadonlySet<number> = new Set([0x00, 0x10])
/** How a record says that its own data follows: of up to 255 bytes, whose number is the byte behind. */
const shortData = 0xff
const recordBytesMin = recordHeaderBytes + 2 + checkpointBytesMin
/** As much of the log as has such a record, with a header of a page in it. */
export const checkpointRecordBytes = recordBytesMin + Number(pageHeaderBytes.long)

/** Gives the log from a position on, `checkpointRecordBytes` of it if it has as many. */
export type ReadLog = (at: Lsn, timeline: number) => Promise<{ readonly bytes: Buffer; readonly segmentBytes: number }>

/** Before the start of a server whose directory did not come from a base backup, or was started since. Gives what was removed. */
export async function discardEarlyStates(dataDir: string): Promise<readonly string[]> {
  const files = await stateFiles(dataDir)
  if (files.length === 0 || (await readLabel(dataDir)) !== undefined) return []
  const nextXid = await nextXidOfControl(dataDir)
  return nextXid === undefined ? [] : discard(dataDir, files, nextXid)
}

/** Before the first start of a server from a base backup. Throws `check_failed` where the log does not have its checkpoint. */
export async function discardStatesBehindBackup(dataDir: string, readLog: ReadLog): Promise<readonly string[]> {
  const files = await stateFiles(dataDir)
  const label = files.length === 0 ? undefined : await readLabel(dataDir)
  if (label === undefined) return []
  const { bytes, segmentBytes } = await readLog(label.checkpoint, label.timeline)
  const nextXid = nextXidOfRecord(bytes, label.checkpoint, segmentBytes)
  if (nextXid !== undefined) return discard(dataDir, files, nextXid)
  throw new HoldfastError('check_failed', `the log has no checkpoint where the backup in ${dataDir} begins`, {
    hint: 'take another base backup',
  })
}

/** The first transaction id that was not assigned yet at a checkpoint; undefined where the bytes are no record of one. */
export function nextXidOfRecord(bytes: Buffer, at: Lsn, segmentBytes: number): bigint | undefined {
  const record = withoutPageHeaders(bytes, at, segmentBytes)
  if (record.length < recordBytesMin) return undefined
  const [info = 0xff, manager] = record.subarray(recordOffset.info, recordOffset.resourceManager + 1)
  if (manager !== 0 || !checkpointKinds.has(info & 0xf0)) return undefined
  const [form, length = 0] = record.subarray(recordHeaderBytes)
  if (form !== shortData || length < checkpointBytesMin) return undefined
  return record.readBigUInt64LE(recordHeaderBytes + 2 + nextXidOffset)
}

function withoutPageHeaders(bytes: Buffer, at: Lsn, segmentBytes: number): Buffer {
  const parts: Buffer[] = []
  for (let from = 0n; from < bytes.length; ) {
    const position = at + from
    const rest = pageBytes - (position % pageBytes)
    if (rest === pageBytes) {
      from += position % BigInt(segmentBytes) === 0n ? pageHeaderBytes.long : pageHeaderBytes.short
      const content = pageBytes - ((at + from) % pageBytes)
      parts.push(bytes.subarray(Number(from), Number(from + content)))
      from += content
    } else {
      parts.push(bytes.subarray(Number(from), Number(from + rest)))
      from += rest
    }
  }
  return Buffer.concat(parts)
}

/** Only files of version 17 and later: 16 digits, of which the first half counts how often transaction ids began anew. */
async function stateFiles(dataDir: string): Promise<readonly string[]> {
  const names = await orMissing(readdir(join(dataDir, 'pg_twophase')))
  return (names ?? []).filter((name) => /^[0-9A-F]{16}$/.test(name))
}

async function nextXidOfControl(dataDir: string): Promise<bigint | undefined> {
  const control = await readFile(join(dataDir, 'global', 'pg_control'))
  if (!controlVersions.has(control.readUInt32LE(controlOffset.version))) return undefined
  return control.readBigUInt64LE(controlOffset.checkpoint + nextXidOffset)
}

async function readLabel(
  dataDir: string,
): Promise<{ readonly checkpoint: Lsn; readonly timeline: number } | undefined> {
  const text = await orMissing(readFile(join(dataDir, 'backup_label'), 'utf8'))
  if (text === undefined) return undefined
  const checkpoint = /^CHECKPOINT LOCATION: ([0-9A-F]+\/[0-9A-F]+)$/m.exec(text)?.[1]
  const timeline = /^START TIMELINE: (\d+)$/m.exec(text)?.[1]
  return {
    checkpoint: parseLsn(present(checkpoint, 'a backup label has its checkpoint')),
    timeline: Number(present(timeline, 'a backup label has its timeline')),
  }
}

async function orMissing<T>(read: Promise<T>): Promise<T | undefined> {
  try {
    return await read
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  }
}

async function discard(dataDir: string, files: readonly string[], nextXid: bigint): Promise<readonly string[]> {
  const early = files.filter((name) => BigInt(`0x${name}`) >= nextXid)
  for (const name of early) await rm(join(dataDir, 'pg_twophase', name))
  return early
}
