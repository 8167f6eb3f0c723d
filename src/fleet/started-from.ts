import { readFile } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { parseDocument } from 'yaml'
import { dataDirDefault } from './config-form.ts'
import { findSupervisor, type Registry } from './registry.ts'

/**
 * The supervisor that was started from a file, whatever became of the file since: who edits it still looks at what runs, and
 * stops it. Of the file it takes where the data directory is, as far as that can be read; what it finds there has to name
 * the file, or it is another fleet.
 */
export async function findStartedFrom(configFile: string): Promise<Registry | undefined> {
  const file = resolve(configFile)
  const registry = await findSupervisor(await dataDirIn(file))
  return registry?.config.file === file ? registry : undefined
}

async function dataDirIn(file: string): Promise<string> {
  const text = await readFile(file, 'utf8').catch(() => '')
  const written = parseDocument(text, { logLevel: 'silent' }).get('dataDir')
  return resolve(dirname(file), typeof written === 'string' && written !== '' ? written : dataDirDefault)
}
