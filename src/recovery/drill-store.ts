import { mkdir, readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { storeDurably } from '../base/durable-files.ts'
import type { DrillReport } from './drill-report.ts'

/** Reports of restores and drills: one JSON file each, kept when the environment is long gone. */
export async function storeReport(folder: string, report: DrillReport): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 })
  await storeDurably(join(folder, `${report.id}.json`), Buffer.from(`${JSON.stringify(report, null, 2)}\n`))
}

/** Oldest first. */
export async function listReports(folder: string): Promise<DrillReport[]> {
  const names = await readdir(folder).catch(() => [])
  const reports: DrillReport[] = []
  for (const name of names.filter((one) => one.endsWith('.json'))) {
    // Written by `storeReport` alone, whole or not at all.
    reports.push(JSON.parse(await readFile(join(folder, name), 'utf8')) as DrillReport)
  }
  return reports.sort((a, b) => (a.takenAt < b.takenAt ? -1 : 1))
}
