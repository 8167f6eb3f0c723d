import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import pLimit from 'p-limit'
import { HoldfastError } from '../../base/errors.ts'
import type { Lsn } from '../lsn.ts'
import { parseLsn } from '../lsn.ts'

/**
 * The manifest that PostgreSQL writes with a base backup: every file with size and checksum, and a checksum over
 * itself (PostgreSQL, "Backup Manifest Format"). Ours are SHA-256 throughout.
 */
export interface BackupManifest {
  readonly files: readonly ManifestFile[]
  /** The log that must be replayed before the backup is consistent. */
  readonly walRanges: readonly { readonly timeline: number; readonly start: Lsn; readonly end: Lsn }[]
}

export interface ManifestFile {
  readonly path: string
  readonly size: number
  readonly sha256: string
}

export const manifestName = 'backup_manifest'

/** What a server or its builder writes beside the backup; PostgreSQL's own verifier leaves it out too. */
const unlisted: ReadonlySet<string> = new Set([
  manifestName,
  'postgresql.auto.conf',
  'standby.signal',
  'recovery.signal',
])

/** Reads a manifest and checks its own checksum. Throws `check_failed`. */
export function parseManifest(bytes: Buffer): BackupManifest {
  const end = bytes.lastIndexOf('"Manifest-Checksum"')
  const stated = /^"Manifest-Checksum": "([0-9a-f]{64})"\}\s*$/.exec(bytes.subarray(Math.max(0, end)).toString())?.[1]
  if (end < 0 || stated === undefined) throw broken('it is cut short')
  const actual = createHash('sha256').update(bytes.subarray(0, end)).digest('hex')
  if (actual !== stated) throw broken('its own checksum does not match')
  const document = JSON.parse(bytes.toString()) as ManifestDocument
  return {
    files: document.Files.map(toFile),
    walRanges: document['WAL-Ranges'].map((range) => ({
      timeline: range.Timeline,
      start: parseLsn(range['Start-LSN']),
      end: parseLsn(range['End-LSN']),
    })),
  }
}

/** The form is trusted only after the checksum over it has matched. */
interface ManifestDocument {
  readonly Files: readonly {
    readonly Path?: string
    readonly 'Encoded-Path'?: string
    readonly Size: number
    readonly 'Checksum-Algorithm'?: string
    readonly Checksum?: string
  }[]
  readonly 'WAL-Ranges': readonly {
    readonly Timeline: number
    readonly 'Start-LSN': string
    readonly 'End-LSN': string
  }[]
}

function toFile(entry: ManifestDocument['Files'][number]): ManifestFile {
  // A path that is not UTF-8 comes in hexadecimal.
  const path = entry.Path ?? Buffer.from(entry['Encoded-Path'] ?? '', 'hex').toString('latin1')
  if (entry['Checksum-Algorithm'] !== 'SHA256' || entry.Checksum === undefined) {
    throw broken(`${path} has no SHA-256 checksum`)
  }
  return { path, size: entry.Size, sha256: entry.Checksum }
}

function broken(why: string): HoldfastError {
  return new HoldfastError('check_failed', `the manifest of the base backup cannot be used: ${why}`)
}

/**
 * Holds a data directory against the manifest in it: every listed file is there, with its size and its checksum,
 * and no other file is. Only before the first start, which changes files. Throws `check_failed`.
 */
export async function verifyManifest(dir: string, signal?: AbortSignal): Promise<BackupManifest> {
  const manifest = parseManifest(await readFile(join(dir, manifestName)))
  const problems: string[] = []
  const atOnce = pLimit(filesAtOnce)
  const verifying = manifest.files.map((file) =>
    atOnce(async () => {
      signal?.throwIfAborted()
      return { file, problem: await verifyFile(dir, file) }
    }),
  )
  for (const { file, problem } of await Promise.all(verifying)) {
    if (problem !== undefined) problems.push(`${file.path} ${problem}`)
  }
  const listed = new Set(manifest.files.map((file) => file.path))
  for (const path of await filesBelow(dir, '')) {
    if (!listed.has(path) && !unlisted.has(path) && !path.startsWith('pg_wal/')) problems.push(`${path} is not listed`)
  }
  if (problems.length === 0) return manifest
  throw new HoldfastError('check_failed', `the base backup in ${dir} is damaged: ${problems.slice(0, 5).join(', ')}`, {
    detail: { problems: problems.length },
  })
}

/** Most files are small; a stream for each costs more than reading it. */
const wholeFileBytes = 1 << 20
const filesAtOnce = 8

async function verifyFile(dir: string, file: ManifestFile): Promise<string | undefined> {
  const path = join(dir, file.path)
  const found = await stat(path).catch(() => undefined)
  if (found === undefined) return 'is missing'
  if (found.size !== file.size) return `has ${found.size} bytes instead of ${file.size}`
  const hash = createHash('sha256')
  if (found.size <= wholeFileBytes) hash.update(await readFile(path))
  else for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk)
  return hash.digest('hex') === file.sha256 ? undefined : 'has another checksum'
}

async function filesBelow(root: string, relative: string): Promise<string[]> {
  const paths: string[] = []
  for (const entry of await readdir(join(root, relative), { withFileTypes: true })) {
    const path = relative === '' ? entry.name : `${relative}/${entry.name}`
    if (entry.isDirectory()) paths.push(...(await filesBelow(root, path)))
    else paths.push(path)
  }
  return paths
}
