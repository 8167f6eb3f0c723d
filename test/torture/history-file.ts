import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

/** The history of one cell, kept so that its checker can be asked again. */
export interface KeptHistory {
  readonly workload: string
  readonly fault: string
  readonly seed: string
  readonly history: unknown
}

/** Returns where it is. */
export async function keepHistory(folder: string, kept: KeptHistory): Promise<string> {
  await mkdir(folder, { recursive: true })
  const path = join(folder, `${kept.seed.replaceAll(/[^\w-]+/g, '-')}.json`)
  await writeFile(
    path,
    JSON.stringify(kept, (_, value: unknown) => (value === Number.POSITIVE_INFINITY ? endless : value)),
  )
  return path
}

export async function readHistory(path: string): Promise<KeptHistory> {
  const revive = (_: string, value: unknown) => (value === endless ? Number.POSITIVE_INFINITY : value)
  return JSON.parse(await readFile(path, 'utf8'), revive) as KeptHistory
}

/** JSON has no infinity. */
const endless = 'infinity'
