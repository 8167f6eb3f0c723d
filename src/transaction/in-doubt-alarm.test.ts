import { expect, test } from 'vitest'
import { dueAlarms } from './in-doubt-alarm.ts'

const limits = { afterMs: 30_000, everyMs: 60_000 }
const young = { gid: 'young', left: { ageMs: 29_999, needsPerson: false } }
const old = { gid: 'old', left: { ageMs: 30_000, needsPerson: false } }
const stuck = { gid: 'stuck', left: { ageMs: 1, needsPerson: true } }
const underway = { gid: 'old', left: undefined }

test('what is old, and what needs a person, is told of; once an interval', () => {
  const first = dueAlarms(new Map(), [young, old, stuck], 0, limits)
  expect([...first.due]).toEqual(['old', 'stuck'])
  const second = dueAlarms(first.told, [young, old, stuck], 59_999, limits)
  expect([...second.due]).toEqual([])
  const third = dueAlarms(second.told, [young, old, stuck], 60_000, limits)
  expect([...third.due]).toEqual(['old', 'stuck'])
})

test('a branch that is gone is forgotten', () => {
  const { told } = dueAlarms(new Map([['gone', 5]]), [old], 10, limits)
  expect([...told]).toEqual([['old', 10]])
})

test('one that somebody has under way is neither told of nor forgotten', () => {
  const eager = { ...limits, afterMs: 0 }
  const before = dueAlarms(new Map(), [underway], 0, eager)
  expect([...before.due]).toEqual([])
  const first = dueAlarms(before.told, [old], 1, eager)
  expect([...first.due]).toEqual(['old'])
  const between = dueAlarms(first.told, [underway], 2, eager)
  expect([...dueAlarms(between.told, [old], 3, eager).due]).toEqual([])
})
