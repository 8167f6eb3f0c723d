import { present } from '../base/assert.ts'
import { randomBytes } from '../base/random.ts'
import type { Retirement, TokenKeys } from '../session/key-rotation.ts'
import { dropKeys } from '../session/key-rotation.ts'
import { tokenLifetimeMsDefault } from '../session/session.ts'
import type { FleetConfig } from './config.ts'
import { readJsonFile, writeFileDurably } from './home.ts'

/** The secrets of an embedded fleet, made at its first start and kept in files of mode 0600. */
export const roleNames = ['holdfast_admin', 'holdfast_gateway', 'holdfast_app', 'holdfast_replication'] as const

export type RoleName = (typeof roleNames)[number]

export interface FleetKeys {
  readonly passwords: Readonly<Record<RoleName, string>>
  /** Session tokens are signed with the current key and verified with all. The one part that changes. */
  readonly tokenKeys: TokenKeys
}

export async function loadOrMakeKeys(keysDir: string): Promise<FleetKeys> {
  const known = await findKeys(keysDir)
  if (known !== undefined) return known
  const keys: FleetKeys = {
    passwords: {
      holdfast_admin: newSecret(),
      holdfast_gateway: newSecret(),
      holdfast_app: newSecret(),
      holdfast_replication: newSecret(),
    },
    tokenKeys: { current: 1, keys: { 1: newSecret() } },
  }
  await writeKeys(keysDir, keys)
  return keys
}

/** Of a fleet that has them: new ones in place of a file that is gone would lock everybody out. */
export async function readKeys(keysDir: string): Promise<FleetKeys> {
  return present(await findKeys(keysDir), `the fleet has its keys in ${keysDir}`)
}

/** The keys of tokens that may be alive: what the next rotation drops does not verify any more. */
export async function readTokenKeys(keysDir: string, retirement: Retirement, nowMs: number): Promise<TokenKeys> {
  return dropKeys((await readKeys(keysDir)).tokenKeys, nowMs, retirement)
}

export function retirementOf({ maxClockOffsetMs }: Pick<FleetConfig, 'maxClockOffsetMs'>): Retirement {
  return { tokenLifetimeMs: tokenLifetimeMsDefault, maxClockOffsetMs }
}

async function findKeys(keysDir: string): Promise<FleetKeys | undefined> {
  return (await readJsonFile(pathOf(keysDir))) as FleetKeys | undefined
}

/** Replaces them as a whole, durably. By the supervisor alone. */
export async function writeKeys(keysDir: string, keys: FleetKeys): Promise<void> {
  await writeFileDurably(pathOf(keysDir), JSON.stringify(keys, null, 2))
}

export function newSecret(): string {
  return Buffer.from(randomBytes(32)).toString('base64url')
}

function pathOf(keysDir: string): string {
  return `${keysDir}/fleet.json`
}
